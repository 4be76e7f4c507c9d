//! A canvas as a drawing backend of the crate `plotters`: pixels and glyphs are ours.

use std::convert::Infallible;

use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
};

use super::{Canvas, GLYPH, ink};

/// The drawing backend.
pub(super) struct Backend<'a>(pub(super) &'a mut Canvas);

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl DrawingBackend for Backend<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.0.width as u32, self.0.height as u32)
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        if let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) {
            self.0.mix(x, y, color.rgb.into(), color.alpha);
        }
        Ok(())
    }

    /// Round pens: plotters' own wide lines have spikes at sharp corners, which such curves have many of.
    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn {
        let radius = style.stroke_width() as i32 / 2;
        let corners: Vec<BackendCoord> = path.into_iter().collect();
        for pair in corners.windows(2) {
            let ((x, y), (to_x, to_y)) = (pair[0], pair[1]);
            let steps = (to_x - x).abs().max((to_y - y).abs()).max(1);
            for step in 0..=steps {
                let at = (x + (to_x - x) * step / steps, y + (to_y - y) * step / steps);
                self.draw_circle(at, radius as u32, &style.color(), true)?;
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, (x, y): BackendCoord) -> Drawn {
        let (width, height) = self.estimate_text_size(text, style)?;
        let (width, height) = (width as i32, height as i32);
        let left = match style.anchor().h_pos {
            HPos::Left => 0,
            HPos::Center => -width / 2,
            HPos::Right => -width,
        };
        let top = match style.anchor().v_pos {
            VPos::Top => 0,
            VPos::Center => -height / 2,
            VPos::Bottom => -height,
        };
        for (dx, dy) in ink(text, scale(style)) {
            let (dx, dy) = style.transform().transform(left + dx as i32, top + dy as i32);
            self.draw_pixel((x + dx, y + dy), style.color())?;
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let side = GLYPH * scale(style);
        Ok(((text.chars().count() * side) as u32, side as u32))
    }
}

/// Width of a glyph as a fraction of a font's size, which plotters assumes for unknown fonts.
const GUESSED_WIDTH: f64 = 0.7 / 1.24 / 1.24;

/// The font size for which plotters reserves the space of glyphs at this scale.
pub(super) fn font_size(scale: usize) -> f64 {
    (GLYPH * scale) as f64 / GUESSED_WIDTH
}

fn scale<S: BackendTextStyle>(style: &S) -> usize {
    (style.size() * GUESSED_WIDTH / GLYPH as f64).round().max(1.0) as usize
}
