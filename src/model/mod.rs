//! The model: its configuration and its table of parameters.

pub mod config;
pub mod params;
