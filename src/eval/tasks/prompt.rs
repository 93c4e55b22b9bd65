//! From questions as text to the tokens that are read and scored.

use super::format::Format;
use super::question::Question;
use crate::data::Tokenizer;
use crate::data::documents;
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::random::{Purpose, Stream};
use std::path::{Path, PathBuf};

/// A problem that is told with the file and the line.
type Phrased<T> = std::result::Result<T, String>;

/// What stands between examples, and between them and the question.
const BETWEEN: &str = "\n\n";

/// A question as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub line: u64,
    /// What is read: one for all choices, or one for each.
    pub contexts: Vec<Context>,
    pub choices: Vec<Choice>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// At least one.
    pub ids: Vec<TokenId>,
    /// How many of them come of what stands before the question itself.
    pub shared: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// At least one.
    pub ids: Vec<TokenId>,
    /// Length of the choice's text.
    pub characters: usize,
    pub bytes: usize,
    pub right: bool,
}

impl Prompt {
    pub fn context(&self, choice: usize) -> &Context {
        &self.contexts[choice.min(self.contexts.len() - 1)]
    }

    /// Tokens that are read at once at most.
    pub fn longest(&self) -> usize {
        let of = |(i, choice): (usize, &Choice)| self.context(i).ids.len() + choice.ids.len();
        self.choices.iter().enumerate().map(of).max().unwrap_or(0)
    }
}

/// The questions of a .jsonl file (also .gz, .zst, which may become `max_decompressed` bytes, as in [`documents::Source`]).
///
/// # Errors
/// A file of another kind, a line that is no question of this format (with its number).
pub fn read(
    path: &Path, format: Format, delimiter: &str, max_decompressed: Option<u64>,
) -> Result<Vec<Question>> {
    let source = documents::find(&[PathBuf::from(path)])?.into_iter().next();
    let source = source.filter(|s| s.path == path && s.format == documents::Format::JsonLines);
    let Some(source) = source else {
        return Err(Error::file(
            path,
            "is not a task file: .jsonl, with a question on each line (also .gz or .zst)",
        ));
    };
    let source = documents::Source { max_decompressed, ..source };
    let mut questions = Vec::new();
    source.read_objects(&mut |line, object| {
        let question = format.question(&object, delimiter);
        let question = question.map_err(|problem| source.bad_line(line, problem))?;
        questions.push(Question { line, ..question });
        Ok(())
    })?;
    Ok(questions)
}

/// Tells these questions, as they are asked, from others.
pub fn fingerprint(prompts: &[Prompt]) -> String {
    let mut hash = blake3::Hasher::new();
    let mut add = |ids: &[TokenId], more: [usize; 3]| {
        hash.update(format!("{} {more:?}\n", ids.len()).as_bytes()).update(bytemuck::cast_slice(ids));
    };
    for prompt in prompts {
        prompt.contexts.iter().for_each(|context| add(&context.ids, [context.shared, 0, 0]));
        for Choice { ids, characters, bytes, right } in &prompt.choices {
            add(ids, [*characters, *bytes, usize::from(*right)]);
        }
    }
    hash.finalize().to_hex()[..32].to_string()
}

/// Which questions are shown, answered, before the others.
pub struct Examples<'a> {
    shown: Vec<&'a Question>,
    count: usize,
    /// Whether they are questions that are asked too.
    asked: bool,
}

impl<'a> Examples<'a> {
    /// `count` of `pool`, drawn by `seed`, the same before every question; where they are `asked` too, a question of
    /// which one is shown has another instead.
    ///
    /// # Errors
    /// A pool that is too small.
    pub fn draw(pool: &'a [Question], count: usize, asked: bool, seed: u64) -> Result<Examples<'a>> {
        let drawn = if count == 0 { 0 } else { count + usize::from(asked) };
        if drawn > pool.len() {
            let problem =
                format!("there are {} questions to draw them from", pool.len() - usize::from(asked));
            return Err(Error::usage("--shots", count, problem));
        }
        let mut order: Vec<usize> = (0..pool.len()).collect();
        let mut stream = Stream::new(seed, Purpose::Task, 0, 0);
        for i in 0..drawn {
            order.swap(i, i + stream.below_usize(pool.len() - i));
        }
        let shown = order[..drawn].iter().map(|&i| &pool[i]).collect();
        Ok(Examples { shown, count, asked })
    }

    /// All that stands before a question.
    fn before(&self, question: &Question) -> String {
        let others = self.shown.iter().filter(|example| !self.asked || example.line != question.line);
        let examples = others.take(self.count).map(|example| example.answered() + BETWEEN);
        examples.chain([question.preamble.to_string()]).collect()
    }
}

/// Questions as tokens.
pub struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub bos: Option<u32>,
    pub examples: Examples<'a>,
}

impl Encoder<'_> {
    /// What is scored are the tokens of context and continuation together that come after those of the context alone;
    /// spaces at the context's end belong to the continuation, as words are cut with the space before them.
    ///
    /// # Errors
    /// A continuation without a token of its own, a context without any.
    pub fn prompt(&self, question: &Question) -> Phrased<Prompt> {
        let before = self.examples.before(question);
        let opening = self.with_bos(self.encode(&before)?);
        let read = |context: &String| self.context(format!("{before}{context}"), &opening);
        let contexts: Vec<(Context, String, usize)> =
            question.contexts.iter().map(read).collect::<Phrased<_>>()?;
        let mut choices = Vec::new();
        for (i, text) in question.choices.iter().enumerate() {
            let (_, context, tokens) = &contexts[i.min(contexts.len() - 1)];
            let together = self.encode(&format!("{context}{}", question.continuation(i)))?;
            let ids = together.get(*tokens..).unwrap_or_default().to_vec();
            if ids.is_empty() {
                return Err(format!("choice {i} has no token of its own after the context"));
            }
            let (characters, bytes, right) = (text.chars().count(), text.len(), question.truth[i]);
            choices.push(Choice { ids, characters, bytes, right });
        }
        let contexts = contexts.into_iter().map(|(context, ..)| context).collect();
        Ok(Prompt { line: question.line, contexts, choices })
    }

    /// A context as it is read; its text; and how many tokens it has up to the spaces at its end.
    fn context(&self, text: String, opening: &[TokenId]) -> Phrased<(Context, String, usize)> {
        let alone = self.encode(text.trim_end())?;
        let tokens = alone.len();
        let ids = self.opened(self.with_bos(alone))?;
        let shared = opening.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        Ok((Context { ids, shared }, text, tokens))
    }

    fn encode(&self, text: &str) -> Phrased<Vec<TokenId>> {
        self.tokenizer.encode(text).map_err(|e| e.to_string())
    }

    fn with_bos(&self, ids: Vec<TokenId>) -> Vec<TokenId> {
        self.bos.map(TokenId).into_iter().chain(ids).collect()
    }

    /// A context of no token is opened by what begins or ends a document: something must foretell the first one.
    fn opened(&self, ids: Vec<TokenId>) -> Phrased<Vec<TokenId>> {
        if !ids.is_empty() {
            return Ok(ids);
        }
        let token = self.tokenizer.bos_id().or(self.tokenizer.eos_id());
        let none = "the context is empty, and the tokenizer has no token that begins or ends a document";
        token.map(|id| vec![TokenId(id)]).ok_or_else(|| none.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(line: u64, context: &str, choices: &[&str]) -> Question {
        let choices: Vec<String> = choices.iter().map(|c| c.to_string()).collect();
        let truth = (0..choices.len()).map(|i| i == 1).collect();
        Question { line, ..Question::of(context.into(), " ", choices, truth) }
    }

    fn encoder<'a>(tokenizer: &'a Tokenizer, pool: &'a [Question], shots: usize, asked: bool) -> Encoder<'a> {
        Encoder { tokenizer, bos: Some(256), examples: Examples::draw(pool, shots, asked, 3).unwrap() }
    }

    #[test]
    fn spaces_at_the_end_of_the_context_are_scored() {
        let tokenizer = Tokenizer::bytes();
        let prompt =
            encoder(&tokenizer, &[], 0, false).prompt(&question(1, "Q: a \n", &["é", "yes"])).unwrap();
        let text = |ids: &[TokenId]| tokenizer.decode(ids, false).unwrap();
        assert_eq!(text(&prompt.contexts[0].ids), "<bos>Q: a");
        assert_eq!(text(&prompt.choices[0].ids), " \n é");
        let of = |c: &Choice| (c.characters, c.bytes, c.right);
        assert_eq!((of(&prompt.choices[0]), of(&prompt.choices[1])), ((1, 2, false), (3, 3, true)));
        assert_eq!((prompt.contexts.len(), prompt.contexts[0].shared, prompt.longest()), (1, 1, 11));
        let empty = encoder(&tokenizer, &[], 0, false);
        let empty = Encoder { bos: None, ..empty }.prompt(&question(1, " ", &["a", "b"])).unwrap();
        assert_eq!(
            (text(&empty.contexts[0].ids), text(&empty.choices[1].ids)),
            ("<bos>".into(), "  b".into())
        );
    }

    /// A tokenizer that joins "a" and "b" wherever they meet.
    fn joining() -> Tokenizer {
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": null, "truncation": null, "padding": null,
            "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "c": 2, "ab": 3 }, "merges": [["a", "b"]] },
        });
        Tokenizer::from_json(json.to_string().as_bytes(), Path::new("joining")).unwrap()
    }

    #[test]
    fn what_is_scored_is_what_both_together_have_after_the_context_alone() {
        let tokenizer = joining();
        let encoder = Encoder { bos: None, ..encoder(&tokenizer, &[], 0, false) };
        let scored = |context: &str, choice: &str| {
            let choices = vec![choice.to_string(); 2];
            let question = Question::of(context.into(), "", choices, vec![true, false]);
            let prompt = encoder.prompt(&question)?;
            let ids = |ids: &[TokenId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
            Ok::<_, String>((ids(&prompt.contexts[0].ids), ids(&prompt.choices[0].ids)))
        };
        assert_eq!(scored("ab", "cb"), Ok((vec![3], vec![2, 1])));
        // joined across the border: of a, ab, c the third comes after the two of the context
        assert_eq!(scored("aa", "bc"), Ok((vec![0, 0], vec![2])));
        let said = scored("a", "b").unwrap_err();
        assert!(said.contains("choice 0 has no token of its own"), "{said}");
        let said = scored("", "b").unwrap_err();
        assert!(said.contains("the context is empty"), "{said}");
    }

    #[test]
    fn examples_are_the_same_for_all_and_never_the_question_itself() {
        let tokenizer = Tokenizer::bytes();
        let pool: Vec<Question> =
            (1..=9).map(|line| question(line, &format!("<{line}>"), &["no", "yes"])).collect();
        let encoder = encoder(&tokenizer, &pool, 3, true);
        let shown = |q: &Question| {
            let prompt = encoder.prompt(q).unwrap();
            let text = tokenizer.decode(&prompt.contexts[0].ids, true).unwrap();
            assert_eq!(prompt.contexts[0].shared, 1 + text.len() - "<1>".len());
            let (examples, asked) = text.rsplit_once("\n\n").unwrap();
            assert_eq!(asked, format!("<{}>", q.line));
            examples.split("\n\n").map(String::from).collect::<Vec<_>>()
        };
        let mut sets: Vec<Vec<String>> = pool.iter().map(shown).collect();
        for (q, examples) in pool.iter().zip(&sets) {
            assert_eq!(examples.len(), 3);
            assert!(!examples.contains(&q.answered()), "{examples:?} before {}", q.answered());
            assert!(examples.iter().all(|e| e.ends_with("> yes")));
        }
        sets.sort();
        sets.dedup();
        // those that are not shown have one set, each of the three first drawn another
        assert_eq!(sets.len(), 4);
        let said = Examples::draw(&pool, 9, true, 3).err().unwrap().to_string();
        assert!(said.contains("--shots 9") && said.contains("8 questions"), "{said}");
        assert!(Examples::draw(&pool, 9, false, 3).is_ok());
    }
}
