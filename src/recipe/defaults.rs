//! The defaults of a recipe, each in one place.

use super::{Recompute, Settings, Size};
use crate::backend::device::DType;
use crate::model::Loss;
use crate::model::lora::Target;
use crate::optim::Optimizer;
use crate::positions::{CHUNKS, ChunkLengths, Content, Method};
use crate::rope::ScalingKind;

impl Settings {
    /// Every key that has a default, filled in.
    pub(super) fn with_defaults(&self) -> Settings {
        let train_len = self.train_len.unwrap_or(Size(2048));
        let filled = self.over(&Settings {
            dtype: Some(DType::default()),
            text_field: Some("text".into()),
            method: Some(Method::Pose),
            train_len: Some(train_len),
            target_len: Some(train_len),
            chunks: Some(CHUNKS),
            chunk_lengths: Some(ChunkLengths::Paper),
            content: Some(Content::Uniform),
            adapt_every: (self.method == Some(Method::Adaptive)).then_some(Size(50)),
            adapt_floor: (self.method == Some(Method::Adaptive)).then_some(0.25),
            rope: Some(ScalingKind::None),
            steps: Some(Size(1000)),
            batch: Some(Size(1)),
            grad_accum: Some(Size(1)),
            optimizer: Some(Optimizer::default()),
            lr: Some(2e-5),
            warmup: Some(Size(10)),
            schedule: Some(Default::default()),
            weight_decay: Some(0.0),
            clip: Some(1.0),
            beta1: Some(0.9),
            beta2: Some(0.95),
            seed: Some(0),
            recompute: Some(Recompute(0)),
            from_scratch: Some(false),
            lora_alpha: self.lora_rank.map(|rank| 2.0 * rank as f64),
            lora_targets: self.lora_rank.map(|_| vec![Target::Q, Target::K, Target::V, Target::O]),
            ..Settings::default()
        });
        // off is the same as unsaid, also to the fingerprint of a run
        let on = |flag: Option<bool>| flag.filter(|on| *on);
        let (pack, save_best, tensorboard) = (on(filled.pack), on(filled.save_best), on(filled.tensorboard));
        let loss = filled.loss.filter(|loss| *loss != Loss::default());
        Settings { pack, save_best, tensorboard, loss, ..filled }
    }
}

/// A value of settings that came from [`Settings::with_defaults`], which leaves none of those empty that it fills in.
pub(super) fn filled<T>(value: Option<T>) -> T {
    value.expect("a key with a default has a value once defaults are filled in")
}
