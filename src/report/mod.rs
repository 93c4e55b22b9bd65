//! Plots and pages for people.

mod page;
mod plot;

pub use page::Page;
pub use plot::{Axis, Plot, Series};
