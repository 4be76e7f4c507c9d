//! YOLO's labels: a text file for each picture, a line `class cx cy width height` for each object, as fractions of the picture's sides.

use super::{Object, Rect};

/// The objects of a picture of `(width, height)` pixels, with class numbers below `classes`.
///
/// # Errors
/// The line number, from 1, and what is wrong with it.
pub fn objects(
    text: &str,
    picture: usize,
    (width, height): (usize, usize),
    classes: usize,
) -> Result<Vec<Object>, String> {
    let mut objects = Vec::new();
    for (line, row) in text.lines().enumerate().filter(|(_, row)| !row.trim().is_empty()) {
        let wrong = |why: String| format!("line {}: {why}", line + 1);
        let fields: Vec<&str> = row.split_whitespace().collect();
        let [class, sides @ ..] = fields.as_slice() else { continue };
        let class: usize = class.parse().map_err(|_| wrong(format!("'{class}' is not a class number")))?;
        if class >= classes {
            return Err(wrong(format!("class {class} is outside 0..={}", classes.saturating_sub(1))));
        }
        if sides.len() != 4 {
            return Err(wrong("is not 'class cx cy width height'; polygons are not boxes".into()));
        }
        let mut parts = [0.0f64; 4];
        for (part, text) in parts.iter_mut().zip(sides) {
            *part = text
                .parse()
                .ok()
                .filter(|part| (0.0..=1.0).contains(part))
                .ok_or_else(|| wrong(format!("'{text}' is not a fraction of the side, 0..=1")))?;
        }
        let [cx, cy, w, h] = parts;
        let (wide, high) = (width as f64, height as f64);
        let rect: Rect = [(cx - w / 2.0) * wide, (cy - h / 2.0) * high, w * wide, h * high];
        objects.push(Object { picture, class, rect, area: rect[2] * rect[3], crowd: false });
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_box_in_fractions_of_the_picture() {
        let objects = objects("2 0.5 0.5 0.25 0.5\n\n", 7, (640, 400), 3).unwrap();
        let object =
            Object { picture: 7, class: 2, rect: [240.0, 100.0, 160.0, 200.0], area: 32000.0, crowd: false };
        assert_eq!(objects, [object]);
    }

    #[test]
    fn errors_name_the_line() {
        let of = |text: &str| objects(text, 0, (10, 10), 3).unwrap_err();
        assert!(of("0 0.5 0.5 0.1 0.1\n3 0.5 0.5 0.1 0.1").starts_with("line 2: class 3 is outside 0..=2"));
        assert!(of("0 0.5 0.5 0.1").contains("line 1: is not"));
        assert!(of("0 0.5 0.5 0.1 1.5").contains("'1.5' is not a fraction of the side"));
        assert!(of("0 0.5 0.5 0.1 NaN").contains("'NaN'"));
        assert!(of("car 0.5 0.5 0.1 0.1").contains("'car' is not a class number"));
    }
}
