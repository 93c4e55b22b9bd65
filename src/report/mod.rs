//! Plots and pages for people.

mod plot;

pub use plot::{Axis, Plot, Series};
