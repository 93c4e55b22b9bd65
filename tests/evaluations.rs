//! Measures beyond perplexity against their definitions: every figure again from plain passes over whole texts.

mod common;

use common::{Bench, allocate, untrained, within};
use half::bf16;
use pose_engine::backend::Backend;
use pose_engine::backend::cpu::Cpu;
use pose_engine::data::{Corpus, Document, Tokenizer};
use pose_engine::eval::tasks::{self, Encoder, Examples, Prompt, Question};
use pose_engine::eval::{self, LongPplProtocol, Partial, ShiftProtocol, ShiftReport};
use pose_engine::index::TokenId;
use pose_engine::infer::{Scorer, Session, log_probability};
use pose_engine::model::buffers::Reading;
use pose_engine::model::{Config, Model};
use pose_engine::rope::{Dynamic, Rope, Scaling};

type B = Cpu<f32>;

fn reading(capacity: usize) -> Reading {
    Reading { chunk: 16, ..Reading::of(capacity) }
}

fn corpus(lengths: &[u32]) -> Corpus {
    let text = |&n: &u32| (0..n).map(|i| TokenId((i * i * 31 + i * (n % 97 + 7) + n) % 256)).collect();
    let document = |n: &u32| Document { name: format!("{n} tokens"), tokens: text(n) };
    Corpus { documents: lengths.iter().map(document).collect() }
}

fn shift<B: Backend>(b: &B, rope: &Rope, bos: Option<u32>) -> ShiftReport {
    let (mut model, corpus) = (untrained(b), corpus(&[1500, 700]));
    let offsets = vec![0, 100, 600, 40_000, 1_000_000];
    let protocol = ShiftProtocol { offsets, length: 60, passages: 2, bos };
    let passages = protocol.passages(&corpus).unwrap();
    let mut scorer: Scorer<B> = allocate(b, &model, reading(protocol.longest(&passages)));
    let (mut told, partial) = (0, &mut Partial::none());
    let report =
        eval::shift(b, &mut model, &mut scorer, rope, &corpus, &passages, &protocol, partial, &mut |n| {
            told += n;
        });
    assert_eq!(told, protocol.reads(&passages));
    report.unwrap()
}

/// Largest change of a passage's mean loss, in nats, when it is moved with nothing before it.
fn drift(report: &ShiftReport) -> f64 {
    let start = &report.offsets[0].alone.of_passages;
    let changes = report.offsets.iter().flat_map(|o| o.alone.of_passages.iter().zip(start));
    changes.map(|(here, start)| (here.unwrap() - start.unwrap()).abs()).fold(0.0, f64::max)
}

#[test]
fn a_passage_alone_has_the_same_losses_wherever_it_lies() {
    let rope = Config::preset("tiny").unwrap().rope;
    for bos in [None, Some(256)] {
        let (exact, rounded) = (
            shift(&Cpu::<f32>::new(2).unwrap(), &rope, bos),
            shift(&Cpu::<bf16>::new(2).unwrap(), &rope, bos),
        );
        assert!(drift(&exact) < 2e-6, "f32 drifts by {:e}", drift(&exact));
        assert!(drift(&rounded) < 2e-2, "bf16 drifts by {:e}", drift(&rounded));
        // rotated at other positions it is rounded otherwise: the positions do arrive
        assert!(drift(&exact) > 0.0 && drift(&rounded) > drift(&exact));
    }
    // a scaling that goes by the length has other frequencies at each offset
    let dynamic = Scaling::Dynamic(Dynamic { factor: 1.0, original: 256, length: 0 });
    let moved = shift(&Cpu::<f32>::new(2).unwrap(), &Rope { scaling: dynamic, ..rope }, None);
    assert!(drift(&moved) > 1e-3, "dynamic scaling moved nothing: {:e}", drift(&moved));
}

#[test]
fn a_passage_after_its_text_is_scored_as_a_whole_pass_scores_it() {
    let b = B::new(2).unwrap();
    let report = shift(&b, &Config::preset("tiny").unwrap().rope, None);
    let (corpus, mut bench) = (corpus(&[1500, 700]), Bench::untrained(&b, 700));
    let counts: Vec<usize> =
        report.offsets.iter().map(|o| o.after.as_ref().map_or(0, |s| s.passages)).collect();
    // both passages are the ends of their documents, with 1440 and 640 tokens before them
    assert_eq!(counts, [2, 2, 2, 0, 0]);
    for offset in &report.offsets[..3] {
        let after = offset.after.as_ref().unwrap();
        let mut differences = Vec::new();
        for (i, passage) in report.passages.iter().enumerate() {
            let Some(nll) = after.of_passages[i] else { continue };
            let text = &corpus.documents[passage.document].tokens;
            let all = bench.losses(&text[passage.start - offset.offset..passage.start + 60]);
            let tail = &all[offset.offset..];
            assert_eq!(tail.len(), 59);
            within((nll / mean(tail) - 1.0).abs(), 1e-5, &format!("offset {}", offset.offset));
            differences.push(mean(tail) - report.offsets[0].alone.of_passages[i].unwrap());
        }
        within((after.difference - mean(&differences)).abs(), 1e-5, "the mean difference");
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn longppl_is_what_its_definition_says() {
    let b = B::new(2).unwrap();
    let (mut model, mut bench) = (untrained(&b), Bench::untrained(&b, 150));
    let corpus = corpus(&[150, 90, 12]);
    let protocol = LongPplProtocol {
        windows: vec![64, 150],
        stride: None,
        short: 16,
        short_stride: 8,
        min_gain: 0.02,
        min_log_likelihood: -6.0,
        bos: None,
        other_judge: false,
    };
    let mut scorer: Scorer<B> = allocate(&b, &model, reading(150));
    let (rope, mut told) = (model.config.rope.clone(), 0);
    let (partial, progress) = (&mut Partial::none(), &mut |n| told += n);
    let judged =
        eval::judge(&b, &mut model, &mut scorer, &rope, &corpus, &protocol, partial, progress).unwrap();
    let reports =
        eval::longppl(&b, &mut model, &mut scorer, &rope, &corpus, &protocol, &judged, partial, progress)
            .unwrap();
    assert_eq!(told, corpus.documents.iter().map(|d| protocol.reads(d.tokens.len())).sum::<usize>());

    let (mut sum, mut count, mut by_document) = (0.0, 0, Vec::new());
    for (document, judged) in corpus.documents.iter().zip(&judged) {
        let (text, n) = (&document.tokens, document.tokens.len());
        let long = bench.losses(text);
        let short = |bench: &mut Bench<'_, B>, t: usize| {
            let begin = (t - 16) / 8 * 8;
            bench.losses(&text[begin..t + 1])[t - begin - 1]
        };
        let is_key = |t: &usize| short(&mut bench, *t) - long[*t - 1] > 0.02 && -long[*t - 1] > -6.0;
        let keys: Vec<usize> = (16.min(n)..n).filter(is_key).collect();
        assert_eq!(judged.keys, keys, "{}", document.name);
        let nll: Vec<f64> = keys.iter().map(|t| long[t - 1]).collect();
        (sum, count) = (sum + nll.iter().sum::<f64>(), count + nll.len());
        if !nll.is_empty() {
            by_document.push(mean(&nll).exp());
        }
    }
    assert!(count > 10 && count < 150, "{count} key tokens tell nothing");
    let report = &reports[1];
    assert_eq!((report.window, report.keys), (150, count));
    within((report.longppl.unwrap() / (sum / count as f64).exp() - 1.0).abs(), 1e-5, "LongPPL");
    within((report.mean_longppl.unwrap() / mean(&by_document) - 1.0).abs(), 1e-5, "its mean over documents");
    // the same tokens, with less before them
    assert_eq!((reports[0].window, reports[0].keys), (64, count));
    assert!(reports[0].longppl.unwrap() != report.longppl.unwrap());
}

fn questions() -> Vec<Question> {
    let question = |line: u64, context: &str, choices: [&str; 3], right: [bool; 3]| {
        let choices = choices.map(String::from).to_vec();
        Question { line, ..Question::of(context.into(), " ", choices, right.to_vec()) }
    };
    vec![
        question(
            1,
            "The fox ran over the hill and saw",
            ["a bridge", "an old bridge", "it"],
            [true, false, false],
        ),
        question(
            2,
            "A red fox. ",
            ["ran", "é", "slept under the bridge that it had seen"],
            [false, true, true],
        ),
        question(3, "The fox ran over the hill and slept", ["there", "here", "now"], [false, false, true]),
        Question {
            contexts: vec!["The fox ran because the fox".into(), "The fox ran because the hill".into()],
            continuations: vec![" was red.".into()],
            choices: vec!["was red.".into(); 2],
            ..question(4, "", ["", "", ""], [true, false, false])
        },
    ]
}

/// log p of each choice from the logits of one plain pass over context and choice.
fn plain<B: Backend>(b: &B, model: &Model<B>, prompt: &Prompt) -> Vec<f64> {
    let mut scorer: Scorer<B> = allocate(b, model, reading(prompt.longest()));
    let mut log_of = |(i, choice): (usize, &tasks::Choice)| {
        let context = &prompt.context(i).ids;
        let ids = [context.as_slice(), &choice.ids].concat();
        let wanted: Vec<usize> = (context.len() - 1..ids.len() - 1).collect();
        let (mut sum, mut next) = (0.0, choice.ids.iter());
        let mut visit = |logits: &[f32]| {
            sum += log_probability(logits, *next.next().unwrap());
            Ok(())
        };
        scorer.logits_at(b, model, &ids, None, &wanted, &mut visit).unwrap();
        sum
    };
    prompt.choices.iter().enumerate().map(&mut log_of).collect()
}

fn tasks_are_plain_passes<B: Backend>(b: &B, tolerance: f64) {
    let (model, tokenizer, questions) = (untrained(b), Tokenizer::bytes(), questions());
    for (shots, bos) in [(0, None), (2, Some(256))] {
        let examples = Examples::draw(&questions, shots, true, 5).unwrap();
        let encoder = Encoder { tokenizer: &tokenizer, bos, examples };
        let prompts: Vec<Prompt> = questions.iter().map(|q| encoder.prompt(q).unwrap()).collect();
        let longest = prompts.iter().map(Prompt::longest).max().unwrap();
        let mut session: Session<B> = allocate(b, &model, reading(longest));
        let ask = |session: &mut Session<B>, prompts: &[Prompt]| {
            tasks::run(b, &model, session, prompts, &mut Partial::none(), &mut |_| {}).unwrap()
        };
        let report = ask(&mut session, &prompts);
        for (prompt, asked) in prompts.iter().zip(&report.questions) {
            let want = plain(b, &model, prompt);
            for (log, want) in asked.log_probabilities.iter().zip(&want) {
                within((log / want - 1.0).abs(), tolerance, &format!("line {}", prompt.line));
            }
            // figures by hand
            let share = |right: bool| {
                let of = prompt.choices.iter().zip(&want).filter(|(choice, _)| choice.right || !right);
                of.map(|(_, log)| log.exp()).sum::<f64>()
            };
            within((asked.mc2 - share(true) / share(false)).abs(), 100.0 * tolerance, "mc2");
            // alone, with nothing in the cache, the same bits
            let alone = ask(&mut session, std::slice::from_ref(prompt));
            assert_eq!(alone.questions[0], *asked);
        }
        assert_eq!(report.questions.len(), 4);
        let tokens = |prompt: &Prompt| {
            let of = |(i, choice): (usize, &tasks::Choice)| prompt.context(i).ids.len() + choice.ids.len();
            prompt.choices.iter().enumerate().map(of).sum::<usize>()
        };
        let read: usize = prompts.iter().map(tokens).sum();
        assert_eq!(report.spent.read + report.spent.reused, read);
        assert!(report.spent.reused > read / 3, "{:?} of {read}", report.spent);
        let right = report.questions.iter().filter(|q| q.acc).count() as f64 / 4.0;
        assert_eq!(report.acc.mean, right);
    }
}

#[test]
fn choices_weigh_what_plain_passes_over_them_give() {
    tasks_are_plain_passes(&Cpu::<f32>::new(2).unwrap(), 2e-6);
    tasks_are_plain_passes(&Cpu::<bf16>::new(2).unwrap(), 1e-2);
}
