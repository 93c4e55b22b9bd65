//! Plots and pages for people.

mod bars;
mod heat;
mod page;
mod plot;

pub use bars::Bars;
pub use heat::HeatMap;
pub use page::Page;
pub use plot::{Axis, Plot, Series};
