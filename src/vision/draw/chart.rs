//! The precision-recall curve as a picture. The crate `plotters` places axes, lines and text.

use std::convert::Infallible;

use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Text};
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, IntoFont, RGBColor, TextStyle};

use super::backend::{Backend, font_size};
use super::{Canvas, PALETTE};

/// Size of the plot, pixels.
const SIZE: (usize, usize) = (1200, 860);

/// Height of the title above it, pixels.
const TITLE: usize = 48;

/// Height of a line of the legend, pixels; added to the picture's height for each line.
const ROW: usize = 26;

/// Supersampling factor: drawn larger and scaled down, for smooth edges.
const FINE: usize = 2;

impl Canvas {
    /// An empty picture.
    fn white(width: usize, height: usize) -> Self {
        Canvas { width, height, rgb: vec![255; 3 * width * height] }
    }

    /// The picture scaled down by `times`, each pixel the mean of those that it covers.
    fn shrunk(&self, times: usize) -> Self {
        let (width, height) = (self.width / times, self.height / times);
        let mut rgb = Vec::with_capacity(3 * width * height);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            for channel in 0..3 {
                let at =
                    |dy: usize, dx: usize| 3 * ((y * times + dy) * self.width + x * times + dx) + channel;
                let dots = (0..times).flat_map(|dy| (0..times).map(move |dx| (dy, dx)));
                let sum: usize = dots.map(|(dy, dx)| usize::from(self.rgb[at(dy, dx)])).sum();
                rgb.push((sum / (times * times)) as u8);
            }
        }
        Canvas { width, height, rgb }
    }
}

const GRID: RGBColor = RGBColor(225, 225, 225);
const TARGET: RGBColor = RGBColor(200, 0, 0);

/// Yellow is too pale for a line on white.
const TOO_PALE: usize = 3;

/// A precision-recall chart, both axes 0..=1.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Title; ASCII.
    pub title: String,
    /// The target precision, drawn as a line.
    pub target: f64,
    /// The curves: the first is black, the others coloured.
    pub curves: Vec<Curve>,
}

/// One curve; points are recall and precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Name; ASCII.
    pub name: String,
    /// All points.
    pub line: Vec<(f64, f64)>,
    /// Single points on it, drawn as dots.
    pub dots: Vec<(f64, f64)>,
    /// A highlighted point.
    pub mark: Option<Mark>,
}

/// A highlighted point.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Position.
    pub at: (f64, f64),
    /// Label; ASCII.
    pub label: String,
    /// More text, for the legend; ASCII.
    pub more: String,
}

impl Chart {
    /// The picture as a PNG file.
    ///
    /// # Errors
    /// A drawing error; a bug.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        self.canvas()?.to_png()
    }

    fn canvas(&self) -> Result<Canvas, String> {
        let rows = ROW * (self.curves.len() + 2);
        let mut canvas = Canvas::white(SIZE.0 * FINE, (TITLE + SIZE.1 + rows) * FINE);
        let board = Backend(&mut canvas).into_drawing_area();
        let (title, rest) = board.split_vertically(px(TITLE));
        let (plot, legend) = rest.split_vertically(px(SIZE.1));
        let middle = (px(SIZE.0 / 2) as i32, px(TITLE / 2) as i32);
        let centred = letters().pos(Pos::new(HPos::Center, VPos::Center));
        title
            .draw(&Text::new(self.title.as_str(), middle, centred))
            .and_then(|()| self.plot(&plot))
            .and_then(|()| self.legend(&legend))
            .map_err(|error| error.to_string())?;
        drop((board, title, rest, plot, legend));
        Ok(canvas.shrunk(FINE))
    }

    fn plot(&self, area: &Area<'_>) -> Result<(), DrawError> {
        let mut chart = ChartBuilder::on(area)
            .margin(px(12))
            .margin_right(px(40))
            .x_label_area_size(px(60))
            .y_label_area_size(px(90))
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        chart
            .configure_mesh()
            .x_desc("recall")
            .y_desc("precision")
            .label_style(letters())
            .set_all_tick_mark_size(px(8))
            .x_labels(11)
            .y_labels(11)
            .max_light_lines(0)
            .x_label_formatter(&|part| format!("{part:.1}"))
            .y_label_formatter(&|part| format!("{part:.1}"))
            .bold_line_style(GRID.stroke_width(px(1)))
            .axis_style(BLACK.stroke_width(px(1)))
            .draw()?;
        chart.draw_series(LineSeries::new(
            [(0.0, self.target), (1.0, self.target)],
            TARGET.stroke_width(px(1)),
        ))?;
        // The first curve is drawn over the others.
        for (index, curve) in self.curves.iter().enumerate().rev() {
            let style = color(index).stroke_width(px(2));
            chart.draw_series(LineSeries::new(curve.line.iter().copied(), style))?;
            chart.draw_series(curve.dots.iter().map(|place| Circle::new(*place, px(4), style.filled())))?;
        }
        for (index, curve) in self.curves.iter().enumerate() {
            let ring = |radius| {
                move |mark: &Mark| Circle::new(mark.at, px(radius), color(index).stroke_width(px(1)))
            };
            for radius in 8..11 {
                chart.draw_series(curve.mark.iter().map(ring(radius)))?;
            }
        }
        if let Some(Mark { at: (recall, precision), label, .. }) =
            self.curves.first().and_then(|curve| curve.mark.as_ref())
        {
            // Above and to the right of a falling curve there is free space.
            let at = ((recall + 0.015).min(0.9), (precision + 0.02).min(0.97));
            let style = letters().pos(Pos::new(HPos::Left, VPos::Bottom));
            chart.draw_series([Text::new(label.clone(), at, style)])?;
        }
        Ok(())
    }

    /// A line for each curve, below the plot.
    fn legend(&self, area: &Area<'_>) -> Result<(), DrawError> {
        let entry = |(index, curve): (usize, &Curve)| {
            let mark = curve.mark.as_ref();
            let mark = mark.map_or_else(String::new, |Mark { label, more, .. }| format!(": {label}, {more}"));
            (color(index).stroke_width(px(2)), format!("{}{mark}", curve.name))
        };
        let target = (TARGET.stroke_width(px(1)), format!("wanted precision {}", self.target));
        for (row, (style, text)) in self.curves.iter().enumerate().map(entry).chain([target]).enumerate() {
            let (x, y) = (px(110) as i32, px(ROW * row + ROW / 2) as i32);
            area.draw(&PathElement::new([(x, y), (x + px(36) as i32, y)], style))?;
            let left = letters().pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(text, (x + px(48) as i32, y), left))?;
        }
        Ok(())
    }
}

type Area<'a> = DrawingArea<Backend<'a>, Shift>;
type DrawError = plotters::drawing::DrawingAreaErrorKind<Infallible>;

/// Converts pixels of the picture to supersampled ones.
fn px(pixels: usize) -> u32 {
    (pixels * FINE) as u32
}

/// Black text of twice the glyphs' size.
fn letters() -> TextStyle<'static> {
    // The font name is ignored: the backend has one font.
    ("sans-serif", font_size(2 * FINE)).into_font().into()
}

fn color(curve: usize) -> RGBColor {
    let colors: Vec<[u8; 3]> =
        PALETTE.iter().enumerate().filter(|(index, _)| *index != TOO_PALE).map(|(_, color)| *color).collect();
    match curve.checked_sub(1) {
        None => BLACK,
        Some(index) => {
            let [r, g, b] = colors[index % colors.len()];
            RGBColor(r, g, b)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chart of one curve that falls once.
    fn chart(mark: Option<Mark>) -> Canvas {
        let curve =
            Curve { name: "all".into(), line: vec![(0.2, 1.0), (0.2, 0.6), (0.6, 0.6)], dots: vec![], mark };
        Chart { title: "a test".into(), target: 0.8, curves: vec![curve] }.canvas().unwrap()
    }

    fn dots(canvas: &Canvas, color: [u8; 3]) -> Vec<(usize, usize)> {
        let all = canvas.rgb.chunks(3).enumerate().filter(|(_, dot)| *dot == color);
        all.map(|(at, _)| (at % canvas.width, at / canvas.width)).collect()
    }

    #[test]
    fn curves_are_drawn_where_the_axes_say() {
        let canvas = chart(None);
        assert_eq!((canvas.width, canvas.height), (SIZE.0, TITLE + SIZE.1 + 3 * ROW));
        // The target spans the whole width: it shows the positions of recall 0 and 1, and of precision 0.8.
        let plot = |dot: &&(usize, usize)| (TITLE..TITLE + SIZE.1).contains(&dot.1);
        let red = dots(&canvas, [200, 0, 0]);
        let red: Vec<_> = red.iter().filter(plot).collect();
        let (left, right) =
            (red.iter().map(|dot| dot.0).min().unwrap(), red.iter().map(|dot| dot.0).max().unwrap());
        let row_80 = red[0].1;
        assert!(right - left > 1000 && red.iter().all(|dot| dot.1.abs_diff(row_80) <= 1));
        // The grid has a row each tenth; the target hides that of 0.8, the axis that of 0.
        let column = left + (right - left) / 20;
        let grid = dots(&canvas, [225, 225, 225]);
        let rows = || grid.iter().filter(plot).filter(|dot| dot.0 == column).map(|dot| dot.1);
        let tenth = (rows().max().unwrap() - rows().min().unwrap()) as f64 / 9.0;
        assert!(tenth > 60.0 && ((row_80 - rows().min().unwrap()) as f64 - 2.0 * tenth).abs() <= 2.0);
        let at = |recall: f64, precision: f64| {
            let x = left as f64 + recall * (right - left) as f64;
            (x.round() as usize, (row_80 as f64 + (0.8 - precision) * 10.0 * tenth).round() as usize)
        };
        let is_black = |(x, y): (usize, usize)| canvas.rgb[3 * (y * canvas.width + x)..][..3] == [0; 3];
        for (recall, precision) in [(0.2, 0.95), (0.2, 0.7), (0.3, 0.6), (0.5, 0.6)] {
            assert!(is_black(at(recall, precision)), "{recall}, {precision}");
        }
        for (recall, precision) in [(0.25, 0.95), (0.1, 0.7), (0.3, 0.65), (0.7, 0.6)] {
            assert!(!is_black(at(recall, precision)), "{recall}, {precision}");
        }
    }

    #[test]
    fn a_mark_has_a_ring_and_a_label() {
        let mark = |label: &str| Mark { at: (0.6, 0.6), label: label.into(), more: "precision 0.6".into() };
        let count = |canvas: &Canvas| dots(canvas, [0; 3]).len();
        let (none, short, long) = (chart(None), chart(Some(mark("0.2"))), chart(Some(mark("0.22222"))));
        assert!(count(&short) > count(&none) + 100 && count(&long) > count(&short) + 100);
    }

    #[test]
    fn values_that_cannot_be_drawn_do_not_panic() {
        let mark = Mark { at: (1.0, 1.0), label: "\u{e9}".repeat(400), more: String::new() };
        let curve =
            Curve { name: "x".into(), line: vec![], dots: vec![(0.0, 0.0), (7.0, -3.0)], mark: Some(mark) };
        let chart = Chart { title: "t".repeat(300), target: 1.0, curves: vec![curve; 12] };
        assert_eq!(&chart.to_png().unwrap()[..4], b"\x89PNG");
    }
}
