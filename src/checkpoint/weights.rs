//! Reading weights: one `model.safetensors` or several under an index, as f32, a window at a time.

use super::admit::lies_in;
use super::convert::{to_f32, unravel};
use super::manifest::is_below;
use super::mapped::map;
use super::params::dtype_of;
use super::pickle;
use crate::backend::Element;
use crate::error::{Error, Result};
use crate::model::config::Dtype;
use crate::model::params::{ParamSpec, file_tensors};
use crate::regular;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Numbers converted at a time: what is resident of a mapped file, and the buffer of the conversion, stay this small.
const WINDOW: usize = 1 << 20;

/// Ends of names of what is no weight: the inverse frequencies that LLaMA's and Baichuan's checkpoints had, and GPT-J's causal masks.
const CONSTANTS: [&str; 3] = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"];

/// The weights of a checkpoint. Holds open files and a directory of tensors; content is mapped only while it is read.
#[derive(Debug)]
pub struct Weights {
    /// What messages call the whole.
    origin: PathBuf,
    files: Vec<(PathBuf, File)>,
    tensors: HashMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    /// The file's own type, which need not be one that we read.
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    /// Byte in the file.
    at: u64,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// Neither there (and what to do where there are only pickled weights), a shard that is missing or truncated, an index
    /// that points outside the directory or to a tensor that its shard lacks, a tensor that two shards have.
    pub fn open(dir: &Path) -> Result<Weights> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if single.exists() {
            Weights::open_file(&single)
        } else if index.exists() {
            open_shards(dir, &index)
        } else {
            Err(Error::file(dir, no_weights(dir)))
        }
    }

    /// Opens one safetensors file.
    pub fn open_file(path: &Path) -> Result<Weights> {
        let mut weights = Weights { origin: path.into(), files: Vec::new(), tensors: HashMap::new() };
        weights.add_file(path, |_| true)?;
        Ok(weights)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// What the tensor is stored in; None where it is absent or stored in a format that is not read.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).and_then(|t| readable(t.dtype))
    }

    /// Reads a tensor in windows: `sink(offset, numbers)` from offset 0 upwards, until all of it has been given.
    ///
    /// # Errors
    /// An absent tensor, another shape than `expected` (both are printed), a format other than f32, f16 and bf16, a number
    /// that is NaN or infinite (with its index), and whatever `sink` returns.
    pub fn read_f32(
        &self, name: &str, expected: &[usize], sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.read_range(name, expected, 0..expected.iter().product(), sink)
    }

    /// Reads a parameter, from a tensor of its own or from its rows of one: as [`Weights::read_f32`].
    pub fn read_param(
        &self, spec: &ParamSpec, sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let Some(part) = &spec.part else { return self.read_f32(&spec.name, &spec.shape, sink) };
        let columns: usize = spec.shape[1..].iter().product();
        let first = part.first_row * columns;
        let whole = [&[part.rows], &spec.shape[1..]].concat();
        self.read_range(&part.tensor, &whole, first..first + spec.elements(), sink)
    }

    /// Some elements of a tensor; offsets count from the first of them.
    fn read_range(
        &self, name: &str, expected: &[usize], range: Range<usize>,
        sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let entry = self.entry(name, expected)?;
        let (path, file) = &self.files[entry.file];
        let dtype = readable(entry.dtype).ok_or_else(|| {
            Error::file(path, format!("{name} is stored as {}; supported are F32, F16 and BF16", entry.dtype))
        })?;
        let mut numbers = Vec::with_capacity(range.len().min(WINDOW));
        for offset in range.clone().step_by(WINDOW) {
            let count = WINDOW.min(range.end - offset);
            let at = entry.at + (offset * dtype.bytes()) as u64;
            to_f32(&map(file, path, at, count * dtype.bytes())?, dtype, &mut numbers);
            if let Some(i) = numbers.iter().position(|x| !x.is_finite()) {
                let index = unravel(offset + i, &entry.shape);
                return Err(Error::file(
                    path,
                    format!("{name}{index:?} is {}: the weights are broken", numbers[i]),
                ));
            }
            sink(offset - range.start, &numbers)?;
        }
        Ok(())
    }

    /// Reads a whole tensor: out = its numbers. Errors as [`Weights::read_f32`].
    pub fn read_into(&self, name: &str, expected: &[usize], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        self.read_f32(name, expected, &mut |_, numbers| {
            out.extend_from_slice(numbers);
            Ok(())
        })
    }

    /// Reads a tensor in the very type that it is stored in: `sink(offset, elements)` as in [`Weights::read_f32`].
    ///
    /// # Errors
    /// An absent tensor, another shape or type than expected, and whatever `sink` returns.
    pub fn read_stored<T: Element>(
        &self, name: &str, expected: &[usize], sink: &mut dyn FnMut(usize, &[T]) -> Result<()>,
    ) -> Result<()> {
        let entry = self.entry(name, expected)?;
        let (path, file) = &self.files[entry.file];
        if entry.dtype != dtype_of::<T>().safetensors() {
            let problem = format!("{name} is stored as {}, but it should be {}", entry.dtype, T::NAME);
            return Err(Error::file(path, problem));
        }
        let elements: usize = entry.shape.iter().product();
        for offset in (0..elements).step_by(WINDOW) {
            let (at, bytes) = (offset * size_of::<T>(), WINDOW.min(elements - offset) * size_of::<T>());
            let bytes = map(file, path, entry.at + at as u64, bytes)?;
            sink(offset, &bytemuck::pod_collect_to_vec::<u8, T>(&bytes))?;
        }
        Ok(())
    }

    /// Whether these are the weights of a model with this parameter table: all are there, in the right shapes. Where the
    /// table has no head (it is the embedding), a head in the file must be equal to the embedding.
    ///
    /// Returns the names that no parameter takes, sorted; the caller decides whether to say so. One in a layer is refused, unless it is a
    /// constant that software keeps beside the weights: a bias or a norm that is passed over makes another model.
    pub fn check_table(&self, table: &[ParamSpec]) -> Result<Vec<String>> {
        const HEAD: &str = "lm_head.weight";
        let tensors = file_tensors(table);
        for param in &tensors {
            if param.name == HEAD && !self.tensors.contains_key(HEAD) {
                let problem = "lm_head.weight is absent; where the model's head is its embedding, set tie_word_embeddings \
                               to true in config.json";
                return Err(Error::file(&self.origin, problem));
            }
            self.entry(&param.name, &param.shape)?;
        }
        let tied = table.first().filter(|_| !table.iter().any(|p| p.name == HEAD));
        if let Some(embed) = tied.filter(|_| self.tensors.contains_key(HEAD)) {
            self.check_tied(embed, HEAD)?;
        }
        let used: HashSet<&str> = tensors.iter().map(|t| t.name.as_str()).chain(tied.map(|_| HEAD)).collect();
        let left: Vec<&str> = self.names().into_iter().filter(|name| !used.contains(name)).collect();
        let of_a_layer =
            |name: &&&str| ["model.layers.", "transformer.h."].iter().any(|of| name.starts_with(of));
        let constant = |name: &str| CONSTANTS.iter().any(|end| name.ends_with(end));
        match left.iter().filter(of_a_layer).find(|name| !constant(name)) {
            Some(name) => {
                let problem = format!(
                    "{name} has no place in the model that config.json describes, which would be computed without it; mend \
                     config.json (biases, norms or num_hidden_layers), or take the tensor out"
                );
                Err(Error::file(&self.origin, problem))
            }
            None => Ok(left.into_iter().map(String::from).collect()),
        }
    }

    /// Tells these weights from others without reading all of them: a hash of every tensor's name, shape and first numbers.
    pub fn fingerprint(&self) -> Result<String> {
        const BYTES: usize = 4096;
        let mut hash = blake3::Hasher::new();
        for name in self.names() {
            let entry = &self.tensors[name];
            let (path, file) = &self.files[entry.file];
            hash.update(format!("{name} {} {:?}\n", entry.dtype, entry.shape).as_bytes());
            let bytes = entry.shape.iter().product::<usize>() * entry.dtype.bitsize() / 8;
            hash.update(&map(file, path, entry.at, bytes.min(BYTES))?);
        }
        Ok(hash.finalize().to_hex()[..32].to_string())
    }

    fn check_tied(&self, embed: &ParamSpec, head: &str) -> Result<()> {
        // by their hashes: neither is held as a whole
        if self.hash_of(&embed.name, &embed.shape)? == self.hash_of(head, &embed.shape)? {
            return Ok(());
        }
        Err(Error::file(
            &self.origin,
            format!(
                "{head} differs from {}, though config.json says tie_word_embeddings true; set it to false",
                embed.name
            ),
        ))
    }

    /// Of a tensor's numbers in f32.
    fn hash_of(&self, name: &str, shape: &[usize]) -> Result<blake3::Hash> {
        let mut hash = blake3::Hasher::new();
        self.read_f32(name, shape, &mut |_, numbers| {
            hash.update(bytemuck::cast_slice(numbers));
            Ok(())
        })?;
        Ok(hash.finalize())
    }

    fn entry(&self, name: &str, expected: &[usize]) -> Result<&Entry> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::file(
                &self.origin,
                format!("{name} is absent; the weights are not of this config.json"),
            ));
        };
        if entry.shape != expected {
            let path = &self.files[entry.file].0;
            return Err(Error::file(
                path,
                format!("{name} is {:?}, but config.json makes it {expected:?}", entry.shape),
            ));
        }
        Ok(entry)
    }

    /// Adds the wanted tensors of one file, from its header alone. Returns the names of all that it has.
    fn add_file(&mut self, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let opening = |e| Error::io(path, "opening the weights", e);
        let file = regular::open(path).map_err(opening)?;
        let length = file.metadata().map_err(opening)?.len();
        let broken = |e: String| {
            Error::file(
                path,
                format!("{e}: the file ({length} bytes) is truncated or not safetensors; fetch it again"),
            )
        };
        if length < 8 {
            return Err(broken("no header".into()));
        }
        let whole = map(&file, path, 0, length as usize)?;
        let (header, metadata) = SafeTensors::read_metadata(&whole).map_err(|e| broken(e.to_string()))?;
        let mut names = Vec::new();
        for (name, info) in metadata.tensors() {
            if wanted(&name) {
                let at = (8 + header + info.data_offsets.0) as u64;
                let entry =
                    Entry { file: self.files.len(), dtype: info.dtype, shape: info.shape.clone(), at };
                self.tensors.insert(name.clone(), entry);
            }
            names.push(name);
        }
        names.sort_unstable();
        self.files.push((path.into(), file));
        Ok(names)
    }
}

fn readable(dtype: safetensors::Dtype) -> Option<Dtype> {
    match dtype {
        safetensors::Dtype::F32 => Some(Dtype::F32),
        safetensors::Dtype::F16 => Some(Dtype::F16),
        safetensors::Dtype::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}

fn open_shards(dir: &Path, index: &Path) -> Result<Weights> {
    let text = regular::read_to_string(index).map_err(|e| Error::io(index, "reading", e))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|e| Error::file(index, format!("is not JSON: {e}")))?;
    let Some(map) = json["weight_map"].as_object() else {
        return Err(Error::file(index, "has no weight_map, which names the file of each tensor"));
    };
    let mut weights = Weights { origin: index.into(), files: Vec::new(), tensors: HashMap::new() };
    let mut opened = HashSet::new();
    // the shard that each tensor was met in, wherever the index says that it is
    let mut shards: HashMap<String, &str> = HashMap::new();
    for (name, shard) in map {
        let Some(shard) = shard.as_str().filter(|s| is_below(s)) else {
            return Err(Error::file(
                index,
                format!("names {shard} for {name}, which is no file of this directory"),
            ));
        };
        if opened.insert(shard) {
            let path = dir.join(shard);
            if !path.exists() {
                return Err(Error::file(
                    path,
                    "is missing, though model.safetensors.index.json names it; fetch it again",
                ));
            }
            lies_in(dir, &path)?;
            for tensor in
                weights.add_file(&path, |tensor| map.get(tensor).and_then(Value::as_str) == Some(shard))?
            {
                if let Some(other) = shards.get(&tensor) {
                    let which = "which of the two counts is not said; fetch both again";
                    return Err(Error::file(path, format!("has {tensor}, as {other} has: {which}")));
                }
                shards.insert(tensor, shard);
            }
        }
    }
    match map.iter().find(|(name, _)| !weights.tensors.contains_key(*name)) {
        Some((name, shard)) => {
            Err(Error::file(index, format!("says that {name} is in {shard}, but it is not there")))
        }
        None => Ok(weights),
    }
}

fn no_weights(dir: &Path) -> String {
    if !dir.is_dir() {
        return "is not a directory; give the Hugging Face directory of a model".into();
    }
    match pickle::found(dir) {
        Some(name) => pickle::refusal(&name),
        None => "has neither model.safetensors nor model.safetensors.index.json".into(),
    }
}
