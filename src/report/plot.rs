//! Line plots as SVG.

use crate::error::{Error, Result};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;

/// One axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    pub label: String,
    pub logarithmic: bool,
    pub zero: bool,
}

impl Axis {
    pub fn linear(label: &str) -> Axis {
        Axis { label: label.into(), logarithmic: false, zero: false }
    }

    /// For values above zero.
    pub fn logarithmic(label: &str) -> Axis {
        Axis { logarithmic: true, ..Axis::linear(label) }
    }

    /// Begins at zero, whatever the data.
    pub fn from_zero(self) -> Axis {
        Axis { zero: true, ..self }
    }

    /// The values to show: all of the data and a little more.
    fn range(&self, values: impl Iterator<Item = f64>) -> Range<f64> {
        let (low, high) = values
            .filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return 0.0..1.0;
        }
        if self.logarithmic {
            return low / 1.1..high * 1.1;
        }
        let margin = 0.05 * (high - low).max(1e-9 + 0.02 * high.abs());
        let low = if self.zero { low.min(0.0) } else { low - margin };
        low..high + margin
    }
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// A dot at each point, for a few measured values.
    pub dots: bool,
}

impl Series {
    pub fn line(name: &str, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points, dots: false }
    }

    pub fn measured(name: &str, points: Vec<(f64, f64)>) -> Series {
        Series { dots: true, ..Series::line(name, points) }
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

const SIZE: (u32, u32) = (720, 420);

type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;

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
        let points = || self.series.iter().flat_map(|s| &s.points);
        let (x, y) = (self.x.range(points().map(|p| p.0)), self.y.range(points().map(|p| p.1)));
        match (self.x.logarithmic, self.y.logarithmic) {
            (false, false) => self.curves(&area, x, y)?,
            (true, false) => self.curves(&area, x.log_scale(), y)?,
            (false, true) => self.curves(&area, x, y.log_scale())?,
            (true, true) => self.curves(&area, x.log_scale(), y.log_scale())?,
        }
        area.present()?;
        Ok(())
    }

    fn curves<X, Y>(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, x: X, y: Y) -> Drawn<()>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|v| short(*v))
            .y_label_formatter(&|v| short(*v))
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            let points = series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
            chart
                .draw_series(LineSeries::new(points.clone(), style))?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
            if series.dots {
                chart.draw_series(points.map(|p| Circle::new(p, 4, colour.filled())))?;
            }
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
        Ok(())
    }
}

/// A number for an axis: few digits, k for multiples of 1024.
fn short(v: f64) -> String {
    if v >= 1024.0 && v % 1024.0 == 0.0 {
        format!("{}k", v / 1024.0)
    } else if v == 0.0 || (v.abs() >= 0.01 && v.abs() < 1e5) {
        let text = format!("{v:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        format!("{v:.1e}")
    }
}
