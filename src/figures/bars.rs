//! A value for each of several things, as lengths of bars.

use super::plot::{Drawn, colour};
use crate::error::{Error, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Bars from zero, one below the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    pub title: String,
    pub unit: String,
    /// Name, value (finite, not below zero), colour.
    pub bars: Vec<(String, f64, usize)>,
}

const LEFT: i32 = 190;
const TOP: i32 = 46;
const ROW: i32 = 30;
const LONGEST: f64 = 430.0;
const WIDTH: u32 = 780;

impl Bars {
    /// As a self-contained SVG element.
    pub fn to_svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg)
            .map_err(|e| Error::file(&self.title, format!("the bars cannot be drawn: {e}")))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Drawn<()> {
        let height = TOP + ROW * self.bars.len() as i32 + 12;
        let area = SVGBackend::with_string(svg, (WIDTH, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let text = |text: &str, at: (i32, i32), size: u32, h: HPos| {
            let style = ("sans-serif", size).into_font().color(&BLACK).pos(Pos::new(h, VPos::Center));
            area.draw(&Text::new(text.to_string(), at, style))
        };
        text(&format!("{} ({})", self.title, self.unit), (WIDTH as i32 / 2, 22), 18, HPos::Center)?;
        let most = self.bars.iter().map(|b| b.1).fold(f64::MIN_POSITIVE, f64::max);
        for (i, (name, value, of)) in self.bars.iter().enumerate() {
            let y = TOP + i as i32 * ROW;
            let end = LEFT + (LONGEST * value / most).round() as i32;
            text(name, (LEFT - 8, y + ROW / 2 - 2), 14, HPos::Right)?;
            area.draw(&Rectangle::new([(LEFT, y), (end.max(LEFT + 1), y + ROW - 6)], colour(*of).filled()))?;
            text(&super::plot::short(*value), (end + 8, y + ROW / 2 - 2), 14, HPos::Left)?;
        }
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_name_and_value() {
        let bars = vec![("pose".to_string(), 12.5, 0), ("full".to_string(), 25.0, 1)];
        let svg = Bars { title: "Time".into(), unit: "ms".into(), bars }.to_svg().unwrap();
        for part in ["pose", "full", "12.5", "25", "Time (ms)", "#0072B2", "#D55E00"] {
            assert!(svg.contains(part), "no {part} in\n{svg}");
        }
        let widths: Vec<&str> = svg.matches("width=\"430\"").collect();
        assert_eq!(widths.len(), 1, "the longest bar\n{svg}");
    }
}
