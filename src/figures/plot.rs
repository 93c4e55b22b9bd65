//! Line plots as SVG.

use crate::error::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    /// Evenly by doublings, marked at powers of two: what context lengths want.
    Doublings,
    /// By doublings where the largest is more than four times the least, otherwise linear: for values above zero of which one may be far off
    /// and the others should still be told apart.
    BySpread,
}

/// One axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    label: String,
    scale: Scale,
    /// Shown whatever the data.
    least: Option<f64>,
    most: Option<f64>,
}

impl Axis {
    pub fn linear(label: &str) -> Axis {
        Axis { label: label.into(), scale: Scale::Linear, least: None, most: None }
    }

    /// For shares, from 0 to 1 whatever the data.
    pub fn shares(label: &str) -> Axis {
        Axis { least: Some(0.0), most: Some(1.0), ..Axis::linear(label) }
    }

    /// For lengths and distances, all above zero.
    pub fn doublings(label: &str) -> Axis {
        Axis { scale: Scale::Doublings, ..Axis::linear(label) }
    }

    /// For perplexities, all above zero.
    pub fn by_spread(label: &str) -> Axis {
        Axis { scale: Scale::BySpread, ..Axis::linear(label) }
    }

    /// With the scale that these data want.
    fn settled(&self, values: impl Iterator<Item = f64>) -> Axis {
        let (low, high) = extremes(values.filter(|v| v.is_finite()));
        let scale = match self.scale {
            Scale::BySpread if low > 0.0 && high > 4.0 * low => Scale::Doublings,
            Scale::BySpread => Scale::Linear,
            scale => scale,
        };
        Axis { scale, ..self.clone() }
    }

    /// Begins at zero, whatever the data.
    pub fn from_zero(self) -> Axis {
        Axis { least: Some(0.0), ..self }
    }

    /// Where a value is drawn.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear | Scale::BySpread => value,
            Scale::Doublings => value.max(f64::MIN_POSITIVE).log2(),
        }
    }

    /// The places to show: all of the data and a little more.
    fn range(&self, values: impl Iterator<Item = f64>) -> Range<f64> {
        let (low, high) = extremes(values.filter(|v| v.is_finite()).map(|v| self.place(v)));
        if low > high {
            return 0.0..1.0;
        }
        let (low, high) = (low.min(self.least.unwrap_or(low)), high.max(self.most.unwrap_or(high)));
        let spread = (high - low).max(0.02 * high.abs());
        let margin = if spread > 0.0 { 0.05 * spread } else { 1.0 };
        let low = if self.least.is_some() { low } else { low - margin };
        low..high + margin
    }

    /// What stands at a mark.
    fn mark(&self, place: f64) -> String {
        match self.scale {
            Scale::Linear | Scale::BySpread => short(place),
            Scale::Doublings if (place - place.round()).abs() < 1e-6 => short(place.round().exp2()),
            Scale::Doublings => String::new(),
        }
    }

    /// How many marks to ask for.
    fn marks(&self, range: &Range<f64>) -> usize {
        match self.scale {
            Scale::Linear | Scale::BySpread => 8,
            Scale::Doublings => (range.end - range.start).ceil() as usize + 1,
        }
    }
}

/// The least and the largest; of none, +inf and -inf.
fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// A dot at each point, for a few measured values.
    pub dots: bool,
    /// Which of the colours; the same thing keeps its colour over several plots.
    pub colour: usize,
}

impl Series {
    pub fn line(name: &str, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points, dots: false, colour: 0 }
    }

    pub fn measured(name: &str, points: Vec<(f64, f64)>) -> Series {
        Series { dots: true, ..Series::line(name, points) }
    }

    pub fn coloured(self, colour: usize) -> Series {
        Series { colour, ..self }
    }
}

/// Curves over common axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

/// Told apart in print and by most colour-blind readers (Okabe & Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// The i-th of the colours, beginning anew after the last.
pub(super) fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}

const SIZE: (u32, u32) = (780, 400);
/// Room for the names of the curves, right of them.
const LEGEND: u32 = 170;

pub(super) type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;

impl Plot {
    /// The plot as a self-contained SVG element.
    pub fn to_svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg)
            .map_err(|e| Error::file(&self.title, format!("the plot cannot be drawn: {e}")))?;
        Ok(svg)
    }

    /// Writes the SVG to a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.to_svg()?).map_err(|e| Error::io(path, "writing the plot", e))
    }

    fn draw(&self, svg: &mut String) -> Drawn<()> {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (curves, names) = area.split_horizontally(SIZE.0 - LEGEND);
        self.curves(&curves)?;
        self.legend(&names)?;
        area.present()?;
        Ok(())
    }

    fn styles(&self) -> impl Iterator<Item = (&Series, ShapeStyle)> {
        self.series.iter().map(|s| (s, colour(s.colour).stroke_width(2)))
    }

    fn curves(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn<()> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let (along, up) = (self.x.settled(points().map(|p| p.0)), self.y.settled(points().map(|p| p.1)));
        let (x, y) = (along.range(points().map(|p| p.0)), up.range(points().map(|p| p.1)));
        let (x_marks, y_marks) = (along.marks(&x), up.marks(&y));
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(66)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .x_labels(x_marks)
            .y_labels(y_marks)
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|v| along.mark(*v))
            .y_label_formatter(&|v| up.mark(*v))
            .draw()?;
        for (series, style) in self.styles() {
            let points = series.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
            let points = points.map(|&(x, y)| (along.place(x), up.place(y)));
            chart.draw_series(LineSeries::new(points.clone(), style))?;
            if series.dots {
                chart.draw_series(points.map(|p| Circle::new(p, 4, style.filled())))?;
            }
        }
        Ok(())
    }

    /// The curves' names beside them, where they hide nothing.
    fn legend(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn<()> {
        for (i, (series, style)) in self.styles().enumerate() {
            let y = 60 + 24 * i as i32;
            area.draw(&PathElement::new(vec![(4, y), (26, y)], style))?;
            area.draw(&Text::new(series.name.clone(), (32, y - 7), ("sans-serif", 14)))?;
        }
        Ok(())
    }
}

/// A number for an axis: few digits, k for multiples of 1024.
pub(super) fn short(v: f64) -> String {
    if v >= 1024.0 && v % 1024.0 == 0.0 {
        format!("{}k", v / 1024.0)
    } else if v == 0.0 || (v.abs() >= 0.01 && v.abs() < 1e5) {
        // four digits and no more than three of them behind the point
        let decimals = (3 - v.abs().max(1.0).log10() as i32).max(0) as usize;
        let text = format!("{v:.decimals$}");
        if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_string() }
    } else {
        format!("{v:.1e}")
    }
}
