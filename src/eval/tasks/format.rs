//! From a line of a data set's own file to a question, worded as the LM evaluation harness words it (version of 2026,
//! its default tasks), so that figures can be compared.

use super::question::Question;
use crate::data::documents::{Object, names_of};
use serde::Serialize;
use serde_json::Value;

/// Whose fields a line has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// context, choices, and answer (an index), answers (indices) or labels (0 or 1 for each choice).
    #[default]
    Plain,
    /// BoolQ: passage, question, and label (0, 1) or answer (true, false).
    Boolq,
    /// PIQA: goal, sol1, sol2, label.
    Piqa,
    /// WinoGrande: sentence, option1, option2, answer; the options are read and the rest of the sentence is scored.
    Winogrande,
    /// TruthfulQA: question, mc1_targets; one answer is right.
    TruthfulqaMc1,
    /// TruthfulQA: question, mc2_targets; several answers are right.
    TruthfulqaMc2,
    /// ARC: question, choices, answerKey.
    Arc,
    /// HellaSwag: activity_label, ctx_a, ctx_b, endings, label.
    Hellaswag,
}

/// The examples that stand before every question of TruthfulQA (arXiv 2109.07958, appendix E): part of the measure.
const TRUTHFULQA: &str = "Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain.

";

impl Format {
    /// Whether examples are part of the format, so that no others may be asked for.
    pub fn has_examples(self) -> bool {
        matches!(self, Format::TruthfulqaMc1 | Format::TruthfulqaMc2)
    }

    /// The question of a line; `delimiter` stands between context and choice of the plain format.
    pub fn question(self, line: &Object, delimiter: &str) -> Result<Question, String> {
        let question = match self {
            Format::Plain => plain(line, delimiter),
            Format::Boolq => boolq(line),
            Format::Piqa => piqa(line),
            Format::Winogrande => winogrande(line),
            Format::TruthfulqaMc1 => truthfulqa(line, "mc1_targets"),
            Format::TruthfulqaMc2 => truthfulqa(line, "mc2_targets"),
            Format::Arc => arc(line),
            Format::Hellaswag => hellaswag(line),
        }?;
        question.check().map(|()| question)
    }
}

fn field<'a>(line: &'a Object, name: &str) -> Result<&'a Value, String> {
    line.get(name).ok_or_else(|| format!("no field \"{name}\"; the line has {}", names_of(line)))
}

fn text<'a>(line: &'a Object, name: &str) -> Result<&'a str, String> {
    field(line, name)?.as_str().ok_or_else(|| format!("the field \"{name}\" is not a string"))
}

fn object<'a>(line: &'a Object, name: &str) -> Result<&'a Object, String> {
    field(line, name)?.as_object().ok_or_else(|| format!("the field \"{name}\" is not an object"))
}

fn texts(line: &Object, name: &str) -> Result<Vec<String>, String> {
    let texts = field(line, name)?.as_array().map(|list| list.iter().map(|v| v.as_str().map(String::from)));
    let texts: Option<Vec<String>> = texts.and_then(Iterator::collect);
    texts.ok_or_else(|| format!("the field \"{name}\" is not a list of strings"))
}

/// A whole number, perhaps written as a string.
fn number(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        _ => value.as_u64().map(|n| n as usize),
    }
}

/// Of `n` choices, those that are numbered.
fn marked(numbers: &[Option<usize>], n: usize, name: &str) -> Result<Vec<bool>, String> {
    let mut truth = vec![false; n];
    for number in numbers {
        let number = number.ok_or_else(|| format!("the field \"{name}\" is not a whole number"))?;
        let problem = || format!("the field \"{name}\" is {number}, and there are {n} choices, from 0");
        *truth.get_mut(number).ok_or_else(problem)? = true;
    }
    Ok(truth)
}

/// A field that numbers the one right choice of `n`.
fn index(line: &Object, name: &str, n: usize) -> Result<Vec<bool>, String> {
    marked(&[number(field(line, name)?)], n, name)
}

/// A field with 0 or 1 for each of `n` choices.
fn labels(line: &Object, name: &str, n: usize) -> Result<Vec<bool>, String> {
    let bit = |v: &Value| number(v).or(v.as_bool().map(usize::from)).filter(|&bit| bit < 2);
    let bits = field(line, name)?.as_array().map(|list| list.iter().map(|v| bit(v).map(|b| b == 1)));
    let bits: Option<Vec<bool>> = bits.and_then(Iterator::collect);
    bits.filter(|bits| bits.len() == n)
        .ok_or_else(|| format!("the field \"{name}\" is not a list of 0 or 1 for each of the {n} choices"))
}

fn plain(line: &Object, delimiter: &str) -> Result<Question, String> {
    let (context, choices) = (text(line, "context")?.to_string(), texts(line, "choices")?);
    let (n, given) = (choices.len(), |name: &&&str| line.contains_key(**name));
    let truth = match ["answer", "answers", "labels"].iter().filter(given).collect::<Vec<_>>()[..] {
        [&"answer"] => index(line, "answer", n),
        [&"answers"] => {
            let list = field(line, "answers")?.as_array().ok_or("the field \"answers\" is not a list")?;
            marked(&list.iter().map(number).collect::<Vec<_>>(), n, "answers")
        }
        [_] => labels(line, "labels", n),
        [] => Err(format!("none of \"answer\", \"answers\" and \"labels\"; the line has {}", names_of(line))),
        _ => Err("more than one of \"answer\", \"answers\" and \"labels\"".into()),
    }?;
    Ok(Question::of(context, delimiter, choices, truth))
}

fn boolq(line: &Object) -> Result<Question, String> {
    let (passage, question) = (text(line, "passage")?, text(line, "question")?);
    let truth = match line.get("answer").and_then(Value::as_bool) {
        Some(yes) => vec![!yes, yes],
        None => index(line, "label", 2)?,
    };
    let context = format!("{passage}\nQuestion: {question}?\nAnswer:");
    Ok(Question::of(context, " ", vec!["no".into(), "yes".into()], truth))
}

fn piqa(line: &Object) -> Result<Question, String> {
    let context = format!("Question: {}\nAnswer:", text(line, "goal")?);
    let choices = vec![text(line, "sol1")?.into(), text(line, "sol2")?.into()];
    Ok(Question::of(context, " ", choices, index(line, "label", 2)?))
}

/// The part before the gap with either option is read, the part after it is scored.
fn winogrande(line: &Object) -> Result<Question, String> {
    let sentence = text(line, "sentence")?;
    let (before, after) = sentence.split_once('_').ok_or("the field \"sentence\" has no _ to fill")?;
    let after = after.trim();
    if after.is_empty() {
        return Err("the field \"sentence\" has nothing after its _ to score".into());
    }
    let options = [text(line, "option1")?, text(line, "option2")?];
    let truth = match number(field(line, "answer")?) {
        Some(1) => vec![true, false],
        Some(2) => vec![false, true],
        _ => return Err("the field \"answer\" is neither 1 nor 2".into()),
    };
    Ok(Question {
        contexts: options.iter().map(|option| format!("{before}{option}")).collect(),
        continuations: vec![format!(" {after}")],
        choices: vec![after.into(); 2],
        ..Question::of(String::new(), "", Vec::new(), truth)
    })
}

fn truthfulqa(line: &Object, targets: &str) -> Result<Question, String> {
    let context = format!("Q: {}\nA:", text(line, "question")?);
    let targets = object(line, targets)?;
    let choices = texts(targets, "choices")?;
    let truth = labels(targets, "labels", choices.len())?;
    Ok(Question { preamble: TRUTHFULQA, ..Question::of(context, " ", choices, truth) })
}

/// As Hugging Face has it (choices: text and label lists), or as the authors do (question: stem, choices).
fn arc(line: &Object) -> Result<Question, String> {
    let (stem, choices, names) = match field(line, "question")? {
        Value::String(stem) => {
            let choices = object(line, "choices")?;
            (stem.as_str(), texts(choices, "text")?, texts(choices, "label")?)
        }
        Value::Object(question) => {
            let choices = field(question, "choices")?.as_array().ok_or("the choices are not a list")?;
            let of = |name: &str| {
                let part = |choice: &Value| choice[name].as_str().map(String::from);
                let parts: Option<Vec<String>> = choices.iter().map(part).collect();
                parts.ok_or_else(|| format!("a choice has no \"{name}\""))
            };
            (text(question, "stem")?, of("text")?, of("label")?)
        }
        _ => return Err("the field \"question\" is neither a string nor an object".into()),
    };
    let key = text(line, "answerKey")?;
    let truth: Vec<bool> = names.iter().map(|name| name == key).collect();
    if truth.len() != choices.len() || !truth.contains(&true) {
        return Err(format!("answerKey {key} is none of the {} choices' labels", choices.len()));
    }
    Ok(Question::of(format!("Question: {stem}\nAnswer:"), " ", choices, truth))
}

fn hellaswag(line: &Object) -> Result<Question, String> {
    let (activity, a, b) = (text(line, "activity_label")?, text(line, "ctx_a")?, text(line, "ctx_b")?);
    let context = cleaned(&format!("{activity}: {a} {}", capitalised(b)));
    let endings: Vec<String> = texts(line, "endings")?.iter().map(|ending| cleaned(ending)).collect();
    let truth = index(line, "label", endings.len())?;
    Ok(Question::of(context, " ", endings, truth))
}

/// The first letter large, all others small.
fn capitalised(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    first + &rest.as_str().to_lowercase()
}

/// Without what WikiHow's mark-up left: titles become sentences, what is in brackets goes, two spaces become one.
fn cleaned(text: &str) -> String {
    without_brackets(&text.trim().replace(" [title]", ". ")).replace("  ", " ")
}

/// Without each `[` and what follows it up to the next `]` on its line.
fn without_brackets(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('[') {
        let (before, from) = rest.split_at(at);
        out += before;
        match from.find([']', '\n']).filter(|&end| from[end..].starts_with(']')) {
            Some(end) => rest = &from[end + 1..],
            None => {
                out.push('[');
                rest = &from[1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn question(format: Format, line: Value) -> Result<Question, String> {
        format.question(line.as_object().unwrap(), " ")
    }

    /// What is read and what is scored, for each choice; which choices are right.
    fn prompts(format: Format, line: Value) -> (Vec<(String, String)>, Vec<bool>) {
        let q = question(format, line).unwrap();
        let prompt = |i| (q.context(i).to_string(), q.continuation(i).to_string());
        ((0..q.choices.len()).map(prompt).collect(), q.truth.clone())
    }

    fn pairs(context: &str, continuations: &[&str]) -> Vec<(String, String)> {
        continuations.iter().map(|c| (context.to_string(), c.to_string())).collect()
    }

    #[test]
    fn plain_lines_say_what_is_right_in_three_ways() {
        let line =
            |key: &str, value: Value| json!({"context": "2+2=", "choices": ["3", "4", "5"], key: value});
        for (key, value) in [("answer", json!(1)), ("answers", json!([1])), ("labels", json!([0, 1, 0]))] {
            let want = (pairs("2+2=", &[" 3", " 4", " 5"]), vec![false, true, false]);
            assert_eq!(prompts(Format::Plain, line(key, value)), want);
        }
        let two = question(Format::Plain, line("answers", json!([2, 0]))).unwrap();
        assert_eq!(two.truth, [true, false, true]);
        assert_eq!(two.answered(), "2+2= 3");
    }

    #[test]
    fn boolq_and_piqa() {
        let line = json!({"passage": "P.", "question": "is it", "label": 1, "idx": 3});
        let want = (pairs("P.\nQuestion: is it?\nAnswer:", &[" no", " yes"]), vec![false, true]);
        assert_eq!(prompts(Format::Boolq, line), want);
        let authors = json!({"passage": "P.", "question": "is it", "answer": true, "title": "t"});
        assert_eq!(prompts(Format::Boolq, authors), want);
        let line = json!({"goal": "To boil", "sol1": "heat it", "sol2": "cool it", "label": 0});
        let want = (pairs("Question: To boil\nAnswer:", &[" heat it", " cool it"]), vec![true, false]);
        assert_eq!(prompts(Format::Piqa, line), want);
    }

    #[test]
    fn winogrande_reads_the_options_and_scores_the_rest() {
        let line = json!({"sentence": "Sarah met Ann so _ was glad.", "option1": "Sarah", "option2": "Ann", "answer": "1"});
        let (prompts, truth) = prompts(Format::Winogrande, line.clone());
        let read = |name: &str| (format!("Sarah met Ann so {name}"), " was glad.".to_string());
        assert_eq!((prompts, truth), (vec![read("Sarah"), read("Ann")], vec![true, false]));
        let q = question(Format::Winogrande, line).unwrap();
        assert_eq!(q.answered(), "Sarah met Ann so Sarah was glad.");
        assert_eq!(q.choices, ["was glad."; 2]);
    }

    #[test]
    fn truthfulqa_has_its_examples() {
        let targets = json!({"choices": ["a", "b", "c"], "labels": [1, 1, 0]});
        let one = json!({"choices": ["a", "c"], "labels": [1, 0]});
        let line = json!({"question": "Why?", "mc1_targets": one, "mc2_targets": targets});
        let one = question(Format::TruthfulqaMc1, line.clone()).unwrap();
        let two = question(Format::TruthfulqaMc2, line).unwrap();
        assert_eq!((one.truth.len(), two.truth), (2, vec![true, true, false]));
        assert_eq!(one.contexts, ["Q: Why?\nA:"]);
        assert!(
            one.preamble.starts_with("Q: What is human life")
                && one.preamble.ends_with("Barcelona, Spain.\n\n")
        );
        assert_eq!(one.preamble.matches("Q: ").count(), 6);
    }

    #[test]
    fn arc_in_both_spellings() {
        let want = (pairs("Question: Which?\nAnswer:", &[" x", " y"]), vec![false, true]);
        let choices = json!({"text": ["x", "y"], "label": ["A", "B"]});
        let line = json!({"question": "Which?", "choices": choices, "answerKey": "B"});
        assert_eq!(prompts(Format::Arc, line), want);
        let choices = json!([{"text": "x", "label": "1"}, {"text": "y", "label": "2"}]);
        let line = json!({"question": {"stem": "Which?", "choices": choices}, "answerKey": "2"});
        assert_eq!(prompts(Format::Arc, line), want);
    }

    #[test]
    fn hellaswag_is_cleaned_of_its_mark_up() {
        let line = json!({
            "activity_label": "Baking", "ctx_a": "A man [header] mixes.", "ctx_b": "HE then",
            "endings": [" [step] Stirs  it. [title] Bakes it. [substeps] Eats.", "sleeps [", "a [x\ny] b"],
            "label": "0",
        });
        let (prompts, truth) = prompts(Format::Hellaswag, line);
        let want = pairs(
            "Baking: A man mixes. He then",
            &["  Stirs it.. Bakes it. Eats.", " sleeps [", " a [x\ny] b"],
        );
        assert_eq!((prompts, truth), (want, vec![true, false, false]));
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        let two = ["x", "y"];
        for (format, line, part) in [
            (Format::Plain, json!({"context": "c"}), "no field \"choices\"; the line has \"context\""),
            (Format::Plain, json!({"context": 1, "choices": two}), "\"context\" is not a string"),
            (
                Format::Plain,
                json!({"context": "c", "choices": ["x", 2], "answer": 0}),
                "not a list of strings",
            ),
            (Format::Plain, json!({"context": "c", "choices": two}), "none of \"answer\", \"answers\""),
            (
                Format::Plain,
                json!({"context": "c", "choices": two, "answer": 0, "labels": [1, 0]}),
                "more than one",
            ),
            (
                Format::Plain,
                json!({"context": "c", "choices": two, "answer": 2}),
                "is 2, and there are 2 choices",
            ),
            (Format::Plain, json!({"context": "c", "choices": two, "answer": -1}), "not a whole number"),
            (
                Format::Plain,
                json!({"context": "c", "choices": two, "labels": [1]}),
                "for each of the 2 choices",
            ),
            (Format::Plain, json!({"context": "c", "choices": two, "labels": [0, 0]}), "no choice is right"),
            (Format::Plain, json!({"context": "c", "choices": ["x"], "answer": 0}), "has 1 choice;"),
            (Format::Plain, json!({"context": "c", "choices": ["x", ""], "answer": 0}), "choice 1 is empty"),
            (Format::Piqa, json!({"goal": "g", "sol1": "a", "sol2": "b"}), "no field \"label\""),
            (Format::Boolq, json!({"passage": "p", "question": "q"}), "no field \"label\""),
            (
                Format::Winogrande,
                json!({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"}),
                "no _",
            ),
            (
                Format::Winogrande,
                json!({"sentence": "a _ gap", "option1": "a", "option2": "b", "answer": ""}),
                "neither 1 nor 2",
            ),
            (
                Format::Arc,
                json!({"question": "q", "choices": {"text": two, "label": ["A", "B"]}, "answerKey": "C"}),
                "answerKey C",
            ),
            (Format::TruthfulqaMc2, json!({"question": "q", "mc2_targets": []}), "not an object"),
        ] {
            let said = question(format, line.clone()).unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
