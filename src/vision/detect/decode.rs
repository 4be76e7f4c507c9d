//! From the raw output of a YOLOv8/YOLO11 head to detections: threshold, best class, NMS.
//!
//! The head's output is `[1, 4 + classes, anchors]`: rows of box centres and sizes in model pixels (`cx cy w h`), then a row of scores per
//! class, already sigmoid (Ultralytics export, `end2end=False`). NMS is greedy and per class: the strongest box stays, boxes that overlap
//! it by more than `iou_max` are removed (torchvision `nms`). Tested against a brute-force oracle, because the snippets in circulation are
//! wrong.

use super::engine::Output;
use super::letterbox::Placement;
use super::{ClassId, Detection, Detections};
use crate::base::error::{Error, Kind, Result};
use crate::base::geometry::{BoxPx, Model};
use crate::base::limits::{ANCHORS_MAX, CANDIDATES_MAX, CLASSES_MAX};

/// Thresholds of the decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// Minimum score of a detection, 0..=1.
    pub score_min: f32,
    /// Boxes of one class that overlap a stronger one by more than this are the same object, 0..=1.
    pub iou_max: f32,
}

/// Shape of a head's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Classes, 1..=`CLASSES_MAX`.
    pub classes: usize,
    /// Anchors (columns): positions in the picture that may hold an object.
    pub anchors: usize,
}

impl HeadShape {
    /// The head with an output of shape `dims` for a model that names `classes` classes.
    ///
    /// # Errors
    /// Any other shape (`Kind::Model`), with what it looks like and how to export a suitable model.
    pub fn from_output(dims: &[usize], classes: usize) -> Result<Self> {
        let wrong = |why: String| {
            Err(Error::fatal(
                Kind::Model,
                format!(
                    "the model's output {dims:?} is not that of a YOLOv8/YOLO11 detection head, [1, {}, anchors]: {why}",
                    4 + classes
                ),
            ))
        };
        match *dims {
            [1, rows, 6] if rows != 4 + classes => {
                wrong("it has suppression built in; export it again with nms=False, end2end=False".into())
            }
            [1, rows, columns] if rows != 4 + classes && columns == 5 + classes => {
                wrong("YOLOv5 layout with objectness; use YOLOv8 or YOLO11".into())
            }
            [1, rows, anchors] if rows == 4 + classes && anchors > ANCHORS_MAX => {
                wrong(format!("it has more than {ANCHORS_MAX} anchors; export it with a smaller input"))
            }
            [1, rows, anchors]
                if rows == 4 + classes && anchors > 0 && (1..=CLASSES_MAX).contains(&classes) =>
            {
                Ok(HeadShape { classes, anchors })
            }
            [1, rows, _] if rows > 4 + classes => wrong(
                "it has more rows (segmentation, pose or oriented boxes?); export a model of task 'detect'"
                    .into(),
            ),
            _ => wrong("use a model of task 'detect', exported with format=onnx".into()),
        }
    }
}

/// What a decode dropped because a limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Candidates beyond `CANDIDATES_MAX`, the weakest.
    pub candidates: u32,
    /// Detections beyond `DETECTIONS_MAX`, the weakest.
    pub detections: u32,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    bbox: BoxPx<Model>,
    score: f32,
    class: u16,
    anchor: u32,
}

/// Decodes outputs of one shape. Allocates all memory at construction.
#[derive(Debug)]
pub struct Decoder {
    head: HeadShape,
    params: Params,
    /// Whether each class is wanted, by index.
    wanted: Vec<bool>,
    best: Vec<(f32, u16)>,
    candidates: Vec<Candidate>,
}

impl Decoder {
    /// A decoder for `head`. `wanted` says for each class whether its detections are kept; classes beyond its end are not.
    pub fn new(head: HeadShape, params: Params, wanted: impl Fn(ClassId) -> bool) -> Self {
        Decoder {
            head,
            params,
            wanted: (0..head.classes).map(|class| wanted(ClassId(class as u16))).collect(),
            best: vec![(0.0, 0); head.anchors],
            candidates: Vec::with_capacity(head.anchors),
        }
    }

    /// Other thresholds and classes from the next output on.
    pub fn set(&mut self, params: Params, wanted: impl Fn(ClassId) -> bool) {
        self.params = params;
        for (class, is_wanted) in self.wanted.iter_mut().enumerate() {
            *is_wanted = wanted(ClassId(class as u16));
        }
    }

    /// Bytes on the heap, for the memory plan (I1).
    pub fn heap_bytes(&self) -> usize {
        self.wanted.capacity()
            + self.best.capacity() * size_of::<(f32, u16)>()
            + self.candidates.capacity() * size_of::<Candidate>()
    }

    /// The minimum score: an engine may leave out anchors below it.
    pub fn score_min(&self) -> f32 {
        self.params.score_min
    }

    /// Decodes `output` into `out`, strongest first, in frame pixels.
    ///
    /// Numbers that are not finite are not detections. Returns what was dropped.
    ///
    /// # Panics
    /// If `output` has another size than the head.
    pub fn decode(&mut self, output: Output<'_>, placement: &Placement, out: &mut Detections) -> Dropped {
        let Output { numbers, columns } = output;
        let HeadShape { classes, anchors } = self.head;
        assert!(
            columns <= anchors && numbers.len() == (4 + classes) * columns,
            "the output of a head of this shape"
        );
        let mut dropped = Dropped::default();
        out.clear();
        let (boxes, scores) = numbers.split_at(4 * columns);
        self.find_best_classes(scores, columns);
        self.collect_candidates(boxes, columns);
        if self.candidates.len() > CANDIDATES_MAX {
            dropped.candidates = (self.candidates.len() - CANDIDATES_MAX) as u32;
            self.candidates.select_nth_unstable_by(CANDIDATES_MAX, stronger_first);
            self.candidates.truncate(CANDIDATES_MAX);
        }
        self.candidates.sort_unstable_by(stronger_first);
        dropped.detections = self.suppress(placement, out);
        dropped
    }

    /// The strongest class of every anchor. Row by row, as the numbers lie in memory.
    fn find_best_classes(&mut self, scores: &[f32], columns: usize) {
        self.best.clear();
        self.best.resize(columns, (0.0, 0));
        for (class, row) in scores.chunks_exact(columns.max(1)).enumerate() {
            for (best, &score) in self.best.iter_mut().zip(row) {
                if score > best.0 {
                    *best = (score, class as u16);
                }
            }
        }
    }

    fn collect_candidates(&mut self, boxes: &[f32], columns: usize) {
        self.candidates.clear();
        for (anchor, &(score, class)) in self.best.iter().enumerate() {
            // An unwanted class must not hide behind the threshold: the anchor belongs to its strongest class.
            if !(score >= self.params.score_min && score.is_finite() && self.wanted[usize::from(class)]) {
                continue;
            }
            let [cx, cy, w, h] = [0, 1, 2, 3].map(|row| boxes[row * columns + anchor]);
            let bbox = BoxPx::from_centre(cx, cy, w, h);
            if bbox.is_finite() {
                self.candidates.push(Candidate { bbox, score, class, anchor: anchor as u32 });
            }
        }
    }

    /// Greedy NMS in place: the kept candidates move to the front, in order. Returns how many did not fit into `out`.
    fn suppress(&mut self, placement: &Placement, out: &mut Detections) -> u32 {
        let mut kept = 0;
        let mut dropped = 0;
        for index in 0..self.candidates.len() {
            let candidate = self.candidates[index];
            let same = |other: &Candidate| {
                other.class == candidate.class && other.bbox.iou(&candidate.bbox) > self.params.iou_max
            };
            if self.candidates[..kept].iter().any(same) {
                continue;
            }
            self.candidates[kept] = candidate;
            kept += 1;
            let detection = Detection {
                bbox: placement.to_frame(&candidate.bbox),
                score: candidate.score.min(1.0),
                class: ClassId(candidate.class),
            };
            // A box that lies wholly in the padding has no area left in the frame.
            if detection.bbox.area() > 0.0 && out.push(detection).is_err() {
                dropped += 1;
            }
        }
        dropped
    }
}

/// Strongest first; ties by anchor, so that the order does not depend on the sort.
fn stronger_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then(a.anchor.cmp(&b.anchor))
}

#[cfg(test)]
mod tests {
    use super::super::letterbox::Size;
    use super::*;
    use crate::base::limits::DETECTIONS_MAX;
    use proptest::prelude::*;

    /// A frame of the model's own size: boxes keep their numbers.
    fn unit() -> Placement {
        Placement::new(Size { width: 64, height: 64 }, Size { width: 64, height: 64 })
    }

    type Anchor = ([f32; 4], Vec<f32>);

    fn whole(numbers: &[f32], columns: usize) -> Output<'_> {
        Output { numbers, columns }
    }

    fn output(anchors: &[Anchor]) -> Vec<f32> {
        let rows = 4 + anchors[0].1.len();
        let row = |r: usize| anchors.iter().map(move |(b, s)| if r < 4 { b[r] } else { s[r - 4] });
        (0..rows).flat_map(row).collect()
    }

    /// By the definition, without any clever ordering: repeat "take the strongest that is left, remove what it covers".
    fn oracle(anchors: &[Anchor], params: Params, wanted: &[bool]) -> Vec<(usize, f32, usize)> {
        let mut left: Vec<(usize, f32, usize, [f64; 4])> = anchors
            .iter()
            .enumerate()
            .filter_map(|(i, (b, scores))| {
                let class = (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
                let [cx, cy, w, h] = b.map(f64::from);
                let corners = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                (scores[class] >= params.score_min && wanted[class]).then_some((
                    i,
                    scores[class],
                    class,
                    corners,
                ))
            })
            .collect();
        let mut kept = Vec::new();
        while let Some(best) = left.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))) {
            kept.push((best.0, best.1, best.2));
            left.retain(|other| {
                let [a, b] = [best.3, other.3];
                let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
                let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
                let area = |r: [f64; 4]| (r[2] - r[0]) * (r[3] - r[1]);
                other.0 != best.0
                    && (other.2 != best.2 || w * h / (area(a) + area(b) - w * h) <= f64::from(params.iou_max))
            });
        }
        kept
    }

    fn anchors(classes: usize) -> impl Strategy<Value = Vec<Anchor>> {
        let anchor = (
            [10.0f32..54.0, 10.0f32..54.0, 2.0f32..20.0, 2.0f32..20.0],
            proptest::collection::vec(0.0f32..1.0, classes),
        );
        proptest::collection::vec(anchor, 1..60)
    }

    proptest! {
        #[test]
        fn equals_the_brute_force_oracle(anchors in anchors(3), score_min in 0.05f32..0.9, iou_max in 0.1f32..0.9, skip in 0usize..4) {
            let params = Params { score_min, iou_max };
            let wanted = [skip != 0, skip != 1, skip != 2];
            let head = HeadShape { classes: 3, anchors: anchors.len() };
            let mut decoder = Decoder::new(head, params, |class| wanted[usize::from(class.0)]);
            let mut out = Detections::new();
            prop_assert_eq!(decoder.decode(whole(&output(&anchors), anchors.len()), &unit(), &mut out), Dropped::default());
            let expected = oracle(&anchors, params, &wanted);
            let ours: Vec<_> = out.iter().map(|d| (d.score, usize::from(d.class.0))).collect();
            let theirs: Vec<_> = expected.iter().map(|&(_, score, class)| (score, class)).collect();
            prop_assert_eq!(ours, theirs);
            for (detection, (anchor, _, _)) in out.iter().zip(expected) {
                let [cx, cy, w, h] = anchors[anchor].0;
                let [x1, y1, x2, y2] = detection.bbox.to_array();
                prop_assert!(((x1 + x2) / 2.0 - cx).abs() < 1e-3 && ((y1 + y2) / 2.0 - cy).abs() < 1e-3);
                prop_assert!((x2 - x1 - w).abs() < 1e-3 && (y2 - y1 - h).abs() < 1e-3);
            }
        }

        /// What `flytrap tune` counts at a threshold equals the detections with that threshold set.
        #[test]
        fn a_lower_threshold_changes_nothing_above_a_higher(anchors in anchors(3), low in 0.01f32..0.5, more in 0.0f32..0.5, iou_max in 0.1f32..0.9) {
            let high = low + more;
            let of = |score_min: f32| {
                let head = HeadShape { classes: 3, anchors: anchors.len() };
                let mut out = Detections::new();
                let mut decoder = Decoder::new(head, Params { score_min, iou_max }, |class| class.0 != 1);
                decoder.decode(whole(&output(&anchors), anchors.len()), &unit(), &mut out);
                out
            };
            let kept: Vec<Detection> = of(low).into_iter().filter(|detection| detection.score >= high).collect();
            let of_high = of(high);
            prop_assert_eq!(kept.as_slice(), of_high.as_slice());
        }

        #[test]
        fn any_numbers_never_panic_and_stay_in_the_frame(values in proptest::collection::vec(any::<f32>(), 6 * 20)) {
            let mut decoder = Decoder::new(HeadShape { classes: 2, anchors: 20 }, Params { score_min: 0.0, iou_max: 0.5 }, |_| true);
            let mut out = Detections::new();
            decoder.decode(whole(&values, 20), &unit(), &mut out);
            for detection in &out {
                let [x1, y1, x2, y2] = detection.bbox.to_array();
                prop_assert!(x1 >= 0.0 && y1 >= 0.0 && x2 <= 64.0 && y2 <= 64.0 && x1 < x2 && y1 < y2);
                prop_assert!((0.0..=1.0).contains(&detection.score));
            }
        }
    }

    #[test]
    fn drops_are_counted_and_the_strongest_stay() {
        let many = CANDIDATES_MAX + 500;
        // Tiny boxes that do not overlap, scores rising with the index.
        let anchors: Vec<Anchor> = (0..many)
            .map(|i| {
                (
                    [0.5 + (i % 64) as f32, 0.5 + (i / 64 % 64) as f32, 0.4, 0.4],
                    vec![0.3 + 0.6 * i as f32 / many as f32],
                )
            })
            .collect();
        let mut decoder = Decoder::new(
            HeadShape { classes: 1, anchors: many },
            Params { score_min: 0.25, iou_max: 0.5 },
            |_| true,
        );
        let mut out = Detections::new();
        let dropped = decoder.decode(whole(&output(&anchors), many), &unit(), &mut out);
        assert_eq!(dropped.candidates, 500);
        assert_eq!(out.len(), DETECTIONS_MAX);
        assert!(dropped.detections > 0);
        assert_eq!(out[0].score, anchors[many - 1].1[0]);
    }

    #[test]
    fn outputs_of_other_heads_are_refused_with_the_remedy() {
        assert_eq!(
            HeadShape::from_output(&[1, 84, 8400], 80).unwrap(),
            HeadShape { classes: 80, anchors: 8400 }
        );
        assert_eq!(HeadShape::from_output(&[1, 6, 100], 2).unwrap(), HeadShape { classes: 2, anchors: 100 });
        for (dims, classes, part) in [
            (&[1, 300, 6][..], 80, "end2end=False"),
            (&[1, 25200, 85], 80, "YOLOv5"),
            (&[1, 116, 8400], 80, "segmentation"),
            (&[1, 1000], 80, "task 'detect'"),
            (&[1, 84, 0], 80, "task 'detect'"),
            (&[2, 84, 8400], 80, "task 'detect'"),
        ] {
            let error = HeadShape::from_output(dims, classes).unwrap_err();
            assert!(error.to_string().contains(part), "{dims:?}: {error}");
        }
    }
}
