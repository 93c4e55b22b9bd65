//! A multiple-choice question as text, whatever data set it comes from.

use crate::names;

/// One question. Contexts and continuations are one for all choices, or one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Of its file, from 1.
    pub line: u64,
    /// What the data set puts before every question.
    pub preamble: &'static str,
    /// What is read.
    pub contexts: Vec<String>,
    /// What is scored after it, its delimiter included.
    pub continuations: Vec<String>,
    /// What a choice's log-probability is normalised by the length of.
    pub choices: Vec<String>,
    /// Which choices are right.
    pub truth: Vec<bool>,
}

impl Question {
    /// The choices follow one context.
    pub fn of(context: String, delimiter: &str, choices: Vec<String>, truth: Vec<bool>) -> Question {
        let continuations = choices.iter().map(|choice| format!("{delimiter}{choice}")).collect();
        Question { line: 0, preamble: "", contexts: vec![context], continuations, choices, truth }
    }

    pub fn context(&self, choice: usize) -> &str {
        &self.contexts[choice.min(self.contexts.len() - 1)]
    }

    pub fn continuation(&self, choice: usize) -> &str {
        &self.continuations[choice.min(self.continuations.len() - 1)]
    }

    /// With its (first) right answer, as an example before other questions.
    pub fn answered(&self) -> String {
        let right = self.truth.iter().position(|&right| right).unwrap_or(0);
        format!("{}{}", self.context(right), self.continuation(right))
    }

    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.choices.len() < 2 {
            return Err(format!(
                "has {}; at least 2 are needed",
                names::counted(self.choices.len(), "choice")
            ));
        }
        if let Some(i) = self.choices.iter().position(String::is_empty) {
            return Err(format!("choice {i} is empty"));
        }
        if !self.truth.contains(&true) {
            return Err("no choice is right".into());
        }
        Ok(())
    }
}
