//! Ground truth of pictures in the formats in which detectors are trained and evaluated: YOLO text files and COCO's `instances.json`.
//!
//! Objects that are too small or too hidden to be expected ([`Truth::is_hard`]) are crowds in the COCO file: a detection there counts
//! neither as right nor as wrong. YOLO files cannot express that: there these objects are left out and detections of them are wrong, so a
//! detector evaluated with them seems worse.

use serde::Serialize;

use super::scene::Truth;
use super::traffic::Kind;

/// Lines `class x y width height`, centre and size as fractions of the picture; classes are indices into [`Kind::ALL`].
pub fn yolo(truth: &[Truth], [width, height]: [u32; 2]) -> String {
    let (wide, high) = (width as f32, height as f32);
    let line = |truth: &Truth| {
        let [left, top, right, bottom] = truth.seen;
        let (x, y) = ((left + right) / 2.0 / wide, (top + bottom) / 2.0 / high);
        let (w, h) = ((right - left) / wide, (bottom - top) / high);
        format!("{} {x:.6} {y:.6} {w:.6} {h:.6}\n", truth.kind.index())
    };
    truth.iter().filter(|truth| !truth.is_hard(width)).map(line).collect()
}

/// A line of JSON: everything known about the road users in a picture.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// Number of the frame, from 0.
    pub frame: u64,
    /// Time since the first frame.
    pub seconds: f64,
    /// All road users that are at least partly visible.
    pub objects: Vec<Object<'a>>,
}

/// One road user; rectangles are left, top, right, bottom, pixels.
#[derive(Debug, Serialize)]
pub struct Object<'a> {
    /// Its id, the same in all frames.
    pub id: u64,
    /// Its class.
    pub class: &'a str,
    /// Rectangle of the visible part.
    #[serde(rename = "box")]
    pub seen: [f32; 4],
    /// Rectangle of the whole.
    pub whole: [f32; 4],
    /// Visible share, 0..=1.
    pub visible: f32,
    /// Whether it is too small or too hidden to be expected.
    pub hard: bool,
    /// Position on the ground, metres: along the street to the right of the camera, and away from it.
    pub ground_m: [f32; 2],
    /// Speed, metres per second.
    pub speed_m_s: f32,
}

impl Line<'_> {
    /// For a frame `width` pixels wide.
    pub fn new(frame: u64, seconds: f64, truth: &[Truth], width: u32) -> Self {
        let object = |truth: &Truth| Object {
            id: truth.id,
            class: truth.kind.name(),
            seen: truth.seen,
            whole: truth.whole,
            visible: truth.visible,
            hard: truth.is_hard(width),
            ground_m: truth.at,
            speed_m_s: truth.speed,
        };
        Line { frame, seconds, objects: truth.iter().map(object).collect() }
    }
}

/// The COCO file, built picture by picture.
#[derive(Debug, Serialize)]
pub struct Coco {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Debug, Serialize)]
struct Image {
    id: usize,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Debug, Serialize)]
struct Annotation {
    id: usize,
    image_id: usize,
    category_id: usize,
    bbox: [f32; 4],
    area: f32,
    iscrowd: u8,
}

#[derive(Debug, Serialize)]
struct Category {
    id: usize,
    name: &'static str,
}

impl Default for Coco {
    fn default() -> Self {
        let category = |kind: Kind| Category { id: kind.index() + 1, name: kind.name() };
        Coco { images: Vec::new(), annotations: Vec::new(), categories: Kind::ALL.map(category).into() }
    }
}

impl Coco {
    /// Adds a picture and its objects.
    pub fn add(&mut self, file_name: String, [width, height]: [u32; 2], truth: &[Truth]) {
        let image_id = self.images.len() + 1;
        self.images.push(Image { id: image_id, file_name, width, height });
        for truth in truth {
            let [left, top, right, bottom] = truth.seen;
            let bbox = [left, top, right - left, bottom - top];
            self.annotations.push(Annotation {
                id: self.annotations.len() + 1,
                image_id,
                category_id: truth.kind.index() + 1,
                bbox,
                area: bbox[2] * bbox[3],
                iscrowd: u8::from(truth.is_hard(width)),
            });
        }
    }

    /// Number of objects that are not crowds.
    pub fn objects(&self) -> usize {
        self.annotations.iter().filter(|annotation| annotation.iscrowd == 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(kind: Kind, seen: [f32; 4], visible: f32) -> Truth {
        Truth { id: 2, kind, seen, whole: seen, visible, at: [0.0; 2], speed: 1.0 }
    }

    #[test]
    fn hard_objects_are_left_out_or_crowds() {
        let all = [
            truth(Kind::Car, [64.0, 36.0, 192.0, 108.0], 1.0),
            truth(Kind::Bus, [64.0, 36.0, 192.0, 108.0], 0.2),
            truth(Kind::Person, [10.0, 10.0, 13.0, 16.0], 1.0),
        ];
        assert_eq!(yolo(&all, [640, 360]), "2 0.200000 0.200000 0.200000 0.200000\n");
        let mut coco = Coco::default();
        coco.add("a.jpg".into(), [640, 360], &all);
        assert_eq!(coco.objects(), 1);
        let text = serde_json::to_string(&coco).unwrap();
        assert!(
            text.contains(r#""category_id":3,"bbox":[64.0,36.0,128.0,72.0],"area":9216.0,"iscrowd":0"#),
            "{text}"
        );
        assert!(text.contains(r#"{"id":6,"name":"truck"}"#), "{text}");
    }
}
