//! Taking typed values out of a JSON object: each error names the file, the key, what stands there and what should.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// A JSON object that is emptied key by key; what is left over is what this program does not know.
pub(in crate::model) struct Fields<'a> {
    /// For messages.
    pub path: &'a Path,
    /// Where in the file, "" or "rope_scaling.", before a key in messages.
    pub prefix: &'static str,
    pub map: Map<String, Value>,
}

impl Fields<'_> {
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::file(self.path, problem)
    }

    /// The value, unless absent or null.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, value: &Value, should: &str) -> Error {
        self.error(format!("{}{key} is {value}, but it should be {should}", self.prefix))
    }

    pub fn require<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(format!("{}{key} is missing", self.prefix)))
    }

    /// A whole number from 1 to `most`.
    pub fn size(&mut self, key: &str, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if n >= 1 && n <= most as u64 => Ok(Some(n as usize)),
            _ => Err(self.wrong(key, &value, &format!("a whole number from 1 to {most}"))),
        }
    }

    /// A finite number.
    pub fn number(&mut self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x.is_finite() => Ok(Some(x)),
            _ => Err(self.wrong(key, &value, "a finite number")),
        }
    }

    /// A list of finite numbers.
    pub fn numbers(&mut self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let finite = |v: &Value| v.as_f64().filter(|x| x.is_finite());
        let list = value.as_array().and_then(|list| list.iter().map(finite).collect());
        list.map(Some).ok_or_else(|| self.wrong(key, &value, "a list of finite numbers"))
    }

    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, &value, "true or false"))
    }

    pub fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(value) => Err(self.wrong(key, &value, "a string")),
        }
    }

    /// A token id, or a list of them where `several`.
    pub fn tokens(&mut self, key: &str, several: bool) -> Result<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|&n| n != u32::MAX);
        let (value, ids) = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) if several => {
                let ids = list.iter().map(id).collect();
                (Value::Array(list), ids)
            }
            Some(value) => {
                let ids = id(&value).map(|id| vec![id]);
                (value, ids)
            }
        };
        let should = if several { "a token id or a list of token ids" } else { "a token id" };
        ids.ok_or_else(|| self.wrong(key, &value, should))
    }

    /// A nested object, with its own prefix.
    pub fn object(&mut self, key: &str, prefix: &'static str) -> Result<Option<Fields<'_>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { path: self.path, prefix, map })),
            Some(value) => Err(self.wrong(key, &value, "an object")),
        }
    }

    /// Two spellings of one thing that must not contradict each other.
    pub fn agree<T: PartialEq>(
        &self, (a_name, a): (&str, Option<T>), (b_name, b): (&str, Option<T>), show: impl Fn(&T) -> String,
    ) -> Result<Option<T>> {
        match (a, b) {
            (Some(a), Some(b)) if a != b => Err(self.error(format!(
                "{a_name} is {} and {b_name} is {}; they say the same thing in two spellings, so remove the wrong one",
                show(&a),
                show(&b)
            ))),
            (a, b) => Ok(a.or(b)),
        }
    }
}
