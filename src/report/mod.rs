//! Plots and pages for people.

mod heat;
mod page;
mod plot;

pub use heat::HeatMap;
pub use page::Page;
pub use plot::{Axis, Plot, Series};
