//! Shares by two quantities as a map of colours.

use super::plot::Drawn;
use crate::error::{Error, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// A share in 0..=1 for each column and row; the first row is at the top.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    pub title: String,
    pub x: String,
    pub y: String,
    pub columns: Vec<String>,
    pub rows: Vec<String>,
    /// `[rows][columns]`; None where nothing was measured.
    pub cells: Vec<Vec<Option<f64>>>,
}

/// Room around the cells, and their size.
const LEFT: i32 = 92;
const TOP: i32 = 46;
const BOTTOM: i32 = 60;
const CELL: (i32, i32) = (78, 32);
const LEAST_WIDTH: i32 = 420;

/// From orange (0) over light grey to blue (1): told apart by most colour-blind readers, and dark at both ends.
fn colour(share: f64) -> RGBColor {
    const MIDDLE: f64 = 238.0;
    const ENDS: [[f64; 3]; 2] = [[213.0, 94.0, 0.0], [0.0, 114.0, 178.0]];
    let end = ENDS[usize::from(share > 0.5)];
    let strength = (2.0 * share - 1.0).abs().min(1.0);
    let part = |i: usize| (MIDDLE + (end[i] - MIDDLE) * strength).round() as u8;
    RGBColor(part(0), part(1), part(2))
}

impl HeatMap {
    /// The map as a self-contained SVG element.
    pub fn to_svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|e| Error::file(&self.title, format!("the map cannot be drawn: {e}")))?;
        Ok(svg)
    }

    /// Writes the SVG to a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.to_svg()?).map_err(|e| Error::io(path, "writing the map", e))
    }

    fn draw(&self, svg: &mut String) -> Drawn<()> {
        let (columns, rows) = (self.columns.len() as i32, self.rows.len() as i32);
        let (right, bottom) = (LEFT + columns * CELL.0, TOP + rows * CELL.1);
        let size = ((right + 16).max(LEAST_WIDTH) as u32, (bottom + BOTTOM) as u32);
        let area = SVGBackend::with_string(svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let style = |size: u32, h: HPos, colour: &RGBColor| {
            ("sans-serif", size).into_font().color(colour).pos(Pos::new(h, VPos::Center))
        };
        let text = |text: &str, at: (i32, i32), size: u32, h: HPos, colour: &RGBColor| {
            area.draw(&Text::new(text.to_string(), at, style(size, h, colour)))
        };
        text(&self.title, (size.0 as i32 / 2, 22), 18, HPos::Center, &BLACK)?;
        for (r, (name, cells)) in self.rows.iter().zip(&self.cells).enumerate() {
            let y = TOP + r as i32 * CELL.1;
            text(name, (LEFT - 8, y + CELL.1 / 2), 14, HPos::Right, &BLACK)?;
            for (c, share) in cells.iter().enumerate() {
                let x = LEFT + c as i32 * CELL.0;
                let corners = [(x, y), (x + CELL.0 - 2, y + CELL.1 - 2)];
                let (fill, said) = match share {
                    Some(share) => (colour(*share), format!("{:.0}%", 100.0 * share)),
                    None => (WHITE, String::new()),
                };
                area.draw(&Rectangle::new(corners, fill.filled()))?;
                let ink = if share.is_some_and(|s| (s - 0.5).abs() > 0.3) { WHITE } else { BLACK };
                text(&said, (x + CELL.0 / 2 - 1, y + CELL.1 / 2 - 1), 14, HPos::Center, &ink)?;
            }
        }
        for (c, name) in self.columns.iter().enumerate() {
            text(name, (LEFT + c as i32 * CELL.0 + CELL.0 / 2, bottom + 12), 14, HPos::Center, &BLACK)?;
        }
        text(&self.x, ((LEFT + right) / 2, bottom + 38), 15, HPos::Center, &BLACK)?;
        let upright = style(15, HPos::Center, &BLACK).transform(FontTransform::Rotate270);
        area.draw(&Text::new(self.y.clone(), (20, (TOP + bottom) / 2), upright))?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_drawn_with_its_share() {
        let map = HeatMap {
            title: "t".into(),
            x: "length".into(),
            y: "depth".into(),
            columns: vec!["2k".into(), "8k".into()],
            rows: vec!["0%".into(), "50%".into()],
            cells: vec![vec![Some(1.0), Some(0.0)], vec![None, Some(0.5)]],
        };
        let svg = map.to_svg().unwrap();
        for part in ["100%", ">\n0%\n<", "2k", "8k", "length", "depth", "#0072B2", "#D55E00", "#EEEEEE"] {
            assert!(svg.contains(part), "no {part} in\n{svg}");
        }
    }
}
