//! From a recipe to open files and allocated buffers.

use super::{Watch, probe};
use crate::backend::Backend;
use crate::checkpoint::{Adapter, SpikeState, Standing, Weights, admit};
use crate::data::{Corpus, Cuts, LoadOptions, Loader, Share, Tokenizer};
use crate::error::{Error, Result};
use crate::eval::{self, Mode, Partial, Protocol, WindowReport};
use crate::infer::{Reads, Scorer};
use crate::memory::{self, Kind, Ledger};
use crate::model::buffers::{Reading, TrainBuffers};
use crate::model::{Config, Gradients, Merge, Model, PlacedBatch, Weighing, scratch};
use crate::names;
use crate::optim::AdamState;
use crate::positions::Method;
use crate::recipe::{Recipe, Source};
use crate::rope::{self, Rope, ScalingKind};

/// The model that a recipe names: architecture and tokenizer, without weights.
pub struct OpenedModel {
    pub config: Config,
    pub tokenizer: Tokenizer,
    /// The rotation that is trained with.
    pub rope: Rope,
}

impl OpenedModel {
    pub fn open(recipe: &Recipe) -> Result<OpenedModel> {
        let (mut config, tokenizer) = open_model(&recipe.source)?;
        if let Some(lora) = &recipe.lora {
            lora.check(&config)?;
            config.lora = Some(lora.clone());
        }
        let (target, original) = (recipe.sampler.target_len(), config.original_length());
        let base = rope::rebased(&config.rope, recipe.rope_theta)?;
        let rope =
            rope::for_training(&base, recipe.rope, (target, "--target-len"), original, recipe.rope_factor)?;
        if recipe.rope == ScalingKind::Dynamic && target <= original {
            let problem = format!(
                "--rope dynamic changes nothing up to the model's own {original}; choose none or more"
            );
            return Err(Error::usage("--target-len", target, problem));
        }
        Ok(OpenedModel { config, tokenizer, rope })
    }

    /// What is worth knowing of its rotation where texts have up to `target` tokens.
    pub fn warnings(&self, target: usize) -> impl Iterator<Item = String> {
        let (rope, original) = (&self.rope, self.config.original_length());
        let reach = self.config.reach(rope);
        rope::base_warning(rope, target, original).into_iter().chain(rope::reach_warning(rope, target, reach))
    }
}

/// Everything that a recipe names, read and checked.
pub struct Opened {
    pub model: OpenedModel,
    pub loader: Loader,
    /// Held-out documents; may be none.
    pub eval: Corpus,
}

impl Opened {
    pub fn open(recipe: &Recipe, watch: &dyn Watch) -> Result<Opened> {
        Self::with_data(recipe, OpenedModel::open(recipe)?, watch)
    }

    pub fn with_data(recipe: &Recipe, model: OpenedModel, watch: &dyn Watch) -> Result<Opened> {
        model.warnings(recipe.sampler.target_len()).for_each(|w| watch.note(&w));
        let loader = open_loader(recipe, &model.tokenizer, watch)?;
        let mut eval = load_corpus(&recipe.eval_data, recipe, &model.tokenizer, watch)?;
        eval.cut(recipe.eval_tokens);
        let paths = recipe.eval_data.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" ");
        if !eval.documents.is_empty() && eval.documents.iter().all(|d| d.tokens.len() < 2) {
            let problem =
                "has no document of 2 tokens or more (after --eval-tokens), so there is no token to score";
            return Err(Error::usage("--eval-data", paths, problem));
        }
        if recipe.adapt.is_some() || recipe.probe_every.is_some() {
            probe::check_text(&eval, &paths, recipe.sampler.target_len())?;
        }
        Ok(Opened { model, loader, eval })
    }
}

fn open_model(source: &Source) -> Result<(Config, Tokenizer)> {
    let (config, tokenizer) = match source {
        Source::Preset(name) => (Config::preset(name)?, Tokenizer::bytes()),
        Source::Checkpoint(dir) | Source::Architecture(dir) => {
            admit(dir)?;
            if Adapter::find(dir)?.is_some() {
                let problem =
                    "is an adapter and not a whole model; pose-engine merge makes one of it, to train on";
                return Err(Error::file(dir, problem));
            }
            (Config::load(dir)?, Tokenizer::load(dir)?)
        }
    };
    tokenizer.check_vocab(config.vocab_size)?;
    Ok((config, tokenizer))
}

fn load_corpus(
    paths: &[std::path::PathBuf], recipe: &Recipe, tokenizer: &Tokenizer, watch: &dyn Watch,
) -> Result<Corpus> {
    if paths.is_empty() {
        return Ok(Corpus::default());
    }
    let options = LoadOptions {
        text_field: recipe.text_field.clone(),
        max_decompressed: recipe.settings.max_decompressed,
        ..LoadOptions::default()
    };
    let (corpus, warnings) = Corpus::load(paths, tokenizer, &options, Some(&|read| watch.read(read)))?;
    warnings.iter().for_each(|w| watch.warn(w));
    Ok(corpus)
}

fn open_loader(recipe: &Recipe, tokenizer: &Tokenizer, watch: &dyn Watch) -> Result<Loader> {
    if let Some(id) = recipe.split_ids.iter().flatten().find(|id| **id as usize >= tokenizer.vocab_size()) {
        let problem = format!("is no token of this tokenizer, which has {}", tokenizer.vocab_size());
        return Err(Error::usage("--split-ids", id, problem));
    }
    let shares = match &recipe.mix {
        None => vec![open_share(&recipe.data, 1.0, recipe, tokenizer, watch)?],
        Some(weights) => {
            let weighed = recipe.data.iter().zip(weights);
            let open =
                |(path, &weight)| open_share(std::slice::from_ref(path), weight, recipe, tokenizer, watch);
            weighed.map(open).collect::<Result<_>>()?
        }
    };
    let (loader, dropped) = Loader::mixing(shares, recipe.sampler.clone(), recipe.seed)?;
    let loader = match (recipe.sampler.method(), &recipe.split_ids) {
        (Method::LongRecipe, None) => loader.cutting(Cuts::sentences(tokenizer)),
        (Method::LongRecipe, Some(ids)) => loader.cutting(Cuts::after(ids)),
        (Method::Axolotl, Some(ids)) => loader.cutting(Cuts::before(ids)),
        _ => loader,
    };
    dropped.iter().for_each(|w| watch.note(w));
    if recipe.sampler.reads_text() {
        check_cuts(recipe, loader.cuts_a_window(), watch)?;
    }
    Ok(loader)
}

/// A row in which no piece begins has nothing to be moved by: it is trained as by `plain`.
fn check_cuts(recipe: &Recipe, cuts_a_window: f64, watch: &dyn Watch) -> Result<()> {
    let what = match &recipe.split_ids {
        Some(ids) => {
            format!("one of the tokens {}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
        }
        None => "the end of a sentence".into(),
    };
    let method = recipe.sampler.method();
    if cuts_a_window == 0.0 {
        let problem = format!(
            "moves what lies between pieces of text, and no text has {what} in it, so every row would be trained as by plain; \
             name other tokens by --split-ids, or take pose"
        );
        return Err(Error::usage("--method", method, problem));
    }
    if cuts_a_window < 1.0 {
        watch.note(&format!(
            "a window has {what} in it {cuts_a_window:.2} times on average; rows without are trained as by plain"
        ));
    }
    Ok(())
}

/// A corpus of those that rows are drawn from.
fn open_share(
    paths: &[std::path::PathBuf], weight: f64, recipe: &Recipe, tokenizer: &Tokenizer, watch: &dyn Watch,
) -> Result<Share> {
    let corpus = load_corpus(paths, recipe, tokenizer, watch)?;
    let (documents, tokens) = (names::counted(corpus.documents.len(), "document"), corpus.tokens());
    let size = format!("{documents}, {}", names::counted(tokens as usize, "token"));
    match (&recipe.mix, paths) {
        (Some(weights), [path]) => {
            let share = 100.0 * weight / weights.iter().sum::<f64>();
            watch.note(&format!("{}: {size}, {share:.1}% of the rows", path.display()));
        }
        _ => watch.note(&size),
    }
    Ok(Share { corpus, weight })
}

/// Everything that a training run allocates.
pub struct State<B: Backend> {
    pub model: Model<B>,
    pub grads: Gradients<B>,
    pub adam: AdamState<B>,
    pub buffers: TrainBuffers<B>,
    pub batch: PlacedBatch<B>,
    /// For LongCE.
    pub weighing: Option<Weighing<B>>,
    /// For perplexity during training; None without held-out text.
    pub scorer: Option<Scorer<B>>,
    /// To save adapters as a whole model; None where that is not asked for.
    pub merge: Option<Merge<B>>,
    pub steps_done: u64,
    pub tokens_seen: u64,
    /// How the held-out text finds the run, where it goes by that.
    pub standing: Standing,
    /// For a run that watches for spikes.
    pub spikes: SpikeState,
}

impl<B: Backend> State<B> {
    /// Takes all the memory of the run through `ledger`.
    pub fn allocate_for(
        b: &B, recipe: &Recipe, opened: &OpenedModel, with_eval: bool, ledger: &mut Ledger,
    ) -> Result<State<B>> {
        let (config, rope) = (&opened.config, &opened.rope);
        let (rows, tokens) = (recipe.batch, recipe.sampler.window());
        let model = Model::allocate(b, ledger, config, rope)?;
        // gradients that are summed over passes outlive the activations of each
        let grads = match recipe.grad_accum {
            1 => Gradients::lodging(b, ledger, &model, recipe.recompute)?,
            _ => Gradients::allocate(b, ledger, &model.specs)?,
        };
        let adam = AdamState::allocate(b, ledger, &model, recipe.optimizer)?;
        let buffers = TrainBuffers::with_lodgers(b, ledger, &model, &grads, rows * tokens, recipe.recompute)?;
        let mut batch =
            PlacedBatch::new(b, ledger, rows, tokens, recipe.sampler.spans_per_row().unwrap_or(0))?;
        if recipe.sampler.packs() {
            batch = batch.packing(b, ledger)?;
        }
        let weigh = |how| Weighing::allocate(b, ledger, how, rows, tokens);
        let weighing = recipe.longce.map(weigh).transpose()?;
        let mut scratch = scratch::training(b, config, rows, tokens);
        let scorer = if with_eval {
            let reading = Reading::of(recipe.sampler.target_len());
            scratch = scratch.max(Scorer::scratch_bytes(b, &model, reading));
            Some(Scorer::allocate(b, ledger, &model, reading)?)
        } else {
            None
        };
        let mut merge = None;
        if let Some(lora) = recipe.lora.as_ref().filter(|_| recipe.lora_merge) {
            scratch = scratch.max(Merge::scratch_bytes(b, config, lora));
            merge = Some(Merge::allocate(b, ledger, config, lora)?);
        }
        ledger.note(Kind::Scratch, "kernels", &[scratch], "u8", scratch);
        if !ledger.is_dry() {
            b.reserve_scratch(scratch)?;
        }
        let (steps_done, tokens_seen) = (0, 0);
        let (standing, spikes) = (Standing::default(), SpikeState::default());
        Ok(State {
            model,
            grads,
            adam,
            buffers,
            batch,
            weighing,
            scorer,
            merge,
            steps_done,
            tokens_seen,
            standing,
            spikes,
        })
    }

    pub fn allocate(b: &B, recipe: &Recipe, opened: &Opened, ledger: &mut Ledger) -> Result<State<B>> {
        Self::allocate_for(b, recipe, &opened.model, !opened.eval.documents.is_empty(), ledger)
    }

    /// The model's weights as the recipe wants them at step 0.
    pub fn fill(&mut self, b: &B, recipe: &Recipe) -> Result<()> {
        self.fill_model(b, recipe)?;
        self.adam.start_masters(b, &self.model)
    }

    pub(super) fn fill_model(&mut self, b: &B, recipe: &Recipe) -> Result<()> {
        match &recipe.source {
            Source::Checkpoint(dir) => {
                self.model.load(b, &Weights::open(dir)?)?;
                self.model.initialise_adapters(b, recipe.seed)
            }
            Source::Architecture(_) | Source::Preset(_) => self.model.initialise(b, recipe.seed),
        }
    }

    /// Adds the adapters into the model's own weights, where that was asked for; there is no training after it.
    pub fn merge_adapters(&mut self, b: &B) -> Result<()> {
        match &mut self.merge {
            Some(merge) => self.model.merge_own(b, merge),
            None => Ok(()),
        }
    }

    /// Perplexity of the held-out documents at the target length, as the model is now.
    pub fn evaluate(&mut self, b: &B, recipe: &Recipe, opened: &Opened) -> Result<WindowReport> {
        let protocol = Protocol { mode: Mode::Sliding, stride: None, bos: None };
        let scorer = self.scorer.as_mut().expect("allocated whenever there is held-out text");
        eval::perplexity(
            b,
            &self.model,
            scorer,
            &opened.eval,
            &protocol,
            recipe.sampler.target_len(),
            &mut Partial::none(),
            &mut |_| {},
        )
    }
}

/// The plan of a run: every buffer, and the program itself.
pub fn plan<B: Backend>(b: &B, recipe: &Recipe, opened: &Opened) -> Result<Ledger> {
    let mut ledger = Ledger::dry();
    State::allocate(b, recipe, opened, &mut ledger)?;
    let text = (opened.loader.corpus().tokens() + opened.eval.tokens()) as usize;
    memory::note_program(&mut ledger, opened.model.tokenizer.resident_bytes(), text);
    Ok(ledger)
}
