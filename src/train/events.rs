//! The metrics as an event file, which TensorBoard reads.
//!
//! The file is a TFRecord: for each event its length (u64), the masked CRC of these eight bytes (u32), the event, and
//! the masked CRC of it, all little-endian. The CRC is CRC-32C, masked by a rotation and a constant. An event is a
//! protobuf message (tensorflow/core/util/event.proto); of its fields the ones below are written.

use super::growing::{self, Growing};
use crate::error::Result;
use crate::recipe::OnSaveError;
use prost::Message;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// TensorBoard takes every file with "tfevents" in its name.
pub const NAME: &str = "events.out.tfevents.pose-engine";
const VERSION: &str = "brain.Event:2";

#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// Of the first event, and of no other.
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

/// One number under a name.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
}

/// Appends to the event file of a run.
pub struct Events {
    file: Growing,
}

impl Events {
    /// Continues after `steps_done`: events of later steps, which a killed run may have left, are dropped, and so is
    /// all from a record on that is torn.
    pub fn open(directory: &Path, steps_done: u64, on_error: OnSaveError) -> Result<Events> {
        let path = directory.join(NAME);
        let kept = kept(&growing::read(&path)?, steps_done);
        Ok(Events { file: Growing::begin(&path, head, &kept, on_error)? })
    }

    /// Drops the events of later steps.
    pub fn drop_after(&mut self, step: u64) -> Result<()> {
        let kept = kept(&self.file.content()?, step);
        self.file.replace(&kept)
    }

    /// Writes what is owed.
    pub fn settle(&mut self) -> Result<()> {
        self.file.settle()
    }

    /// Numbers of a step, by name.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let value = |&(tag, value): &(&str, f64)| Value { tag: tag.into(), simple_value: Some(value as f32) };
        let summary = Some(Summary { value: values.iter().map(value).collect() });
        let event = Event { wall_time: now(), step: step as i64, file_version: None, summary };
        self.file.put(&record(&event.encode_to_vec()))
    }
}

/// What a file begins with: without it, it is of an older version to TensorBoard.
fn head() -> Vec<u8> {
    head_of(now())
}

fn head_of(wall_time: f64) -> Vec<u8> {
    let event = Event { wall_time, step: 0, file_version: Some(VERSION.into()), summary: None };
    record(&event.encode_to_vec())
}

/// The head of a file, and its events up to a step.
fn kept(old: &[u8], steps_done: u64) -> Vec<u8> {
    let stays = |event: &Event| event.summary.is_some() && steps_done > 0 && event.step <= steps_done as i64;
    let kept: Vec<Event> = read(old).into_iter().filter(stays).collect();
    let head = head_of(kept.first().map_or_else(now, |event| event.wall_time));
    head.into_iter().chain(kept.iter().flat_map(|event| record(&event.encode_to_vec()))).collect()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// ((crc >> 15) | (crc << 17)) + 0xa282ead8
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), event, &masked_crc(event)].concat()
}

/// The events of a file, up to the first record that is not as it was written.
pub fn read(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some((event, rest)) = next(bytes) {
        events.push(event);
        bytes = rest;
    }
    events
}

fn next(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if *crc != masked_crc(length) {
        return None;
    }
    let (event, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if *crc != masked_crc(event) {
        return None;
    }
    Some((Event::decode(event).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first record that TensorFlow's SummaryWriter leaves, and one scalar, byte by byte from the formats'
    /// definitions.
    #[test]
    fn records_are_framed_as_tensorflow_frames_them() {
        // RFC 3720, B.4: CRC-32C of 32 bytes of zero
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        let value = Value { tag: "a".into(), simple_value: Some(1.5) };
        let event = Event {
            wall_time: 2.0,
            step: 3,
            file_version: None,
            summary: Some(Summary { value: vec![value] }),
        };
        let bytes = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0, 0x40][..], // 1: double 2.0
            &[0x10, 3],                             // 2: varint 3
            &[0x2a, 10, 0x0a, 8],                   // 5: summary, 1: value
            &[0x0a, 1, b'a'],                       // 1: tag
            &[0x15, 0, 0, 0xc0, 0x3f],              // 2: float 1.5
        ]
        .concat();
        assert_eq!(event.encode_to_vec(), bytes);
        assert_eq!(read(&record(&bytes)), [event]);
    }

    #[test]
    fn what_is_torn_or_of_later_steps_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::open(dir.path(), 0, OnSaveError::Stop).unwrap();
        for step in 1..=3 {
            events.scalars(step, &[("train/loss", step as f64)]).unwrap();
        }
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        let steps = |bytes: &[u8]| read(bytes).iter().map(|event| event.step).collect::<Vec<_>>();
        assert_eq!(steps(&whole), [0, 1, 2, 3]);
        assert_eq!(steps(&whole[..whole.len() - 1]), [0, 1, 2]);
        let mut flipped = whole.clone();
        flipped[60] ^= 1;
        assert!(steps(&flipped).len() < 4);
        drop(Events::open(dir.path(), 2, OnSaveError::Stop).unwrap());
        let kept = std::fs::read(&path).unwrap();
        assert_eq!(steps(&kept), [0, 1, 2]);
        assert_eq!(read(&kept)[1..], read(&whole)[1..3]);
        drop(Events::open(dir.path(), 0, OnSaveError::Stop).unwrap());
        assert_eq!(steps(&std::fs::read(&path).unwrap()), [0]);
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_again_with_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::open(dir.path(), 0, OnSaveError::Stop).unwrap();
        events.scalars(1, &[("train/loss", 1.0)]).unwrap();
        let path = dir.path().join(NAME);
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        events.scalars(2, &[("train/loss", 2.0)]).unwrap();
        events.scalars(3, &[("train/loss", 3.0)]).unwrap();
        let begun = read(&std::fs::read(&path).unwrap());
        assert_eq!(begun.iter().map(|event| event.step).collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!(begun[0].file_version.as_deref(), Some(VERSION));
        assert!(begun[1..].iter().all(|event| event.file_version.is_none()));
        events.drop_after(2).unwrap();
        assert_eq!(
            read(&std::fs::read(&path).unwrap()),
            begun[..2]
                .iter()
                .cloned()
                .map(|mut event| {
                    // begun anew, as of the first event that stays
                    event.wall_time = begun[1].wall_time;
                    event
                })
                .collect::<Vec<_>>()
        );
    }
}
