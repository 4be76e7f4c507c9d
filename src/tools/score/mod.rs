//! Average precision by the rules of COCO.
//!
//! Per class, detections are matched to objects strongest first, at ten IoU thresholds from 0.50 to 0.95; the precision at 101 recalls is
//! averaged. Rules that are easy to miss: of each picture, the 100 strongest detections of a class count; a detection on a crowd region
//! (`iscrowd`) or on an object outside the area range is ignored; a crowd matches any number of detections, and overlap with it is relative
//! to the detection's own area; a class without objects has no score. Compared with pycocotools 2.0 by `tests/it/eval.rs`.

pub mod coco;
pub mod labels;
pub mod threshold;

use std::collections::BTreeMap;

/// IoU thresholds of a match: 0.50, 0.55, … 0.95, as `numpy.linspace` gives them.
const OVERLAPS: usize = 10;

/// Recalls at which precision is read: 0.00, 0.01, … 1.00.
const RECALLS: usize = 101;

/// Maximum number of detections of one class in a picture, strongest first.
pub const DETECTIONS_PER_CLASS_MAX: usize = 100;

/// Left, top, width, height, in pixels of the picture.
pub type Rect = [f64; 4];

/// A labelled object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Which picture: index into [`Truth::pictures`].
    pub picture: usize,
    /// Its class: index into [`Truth::classes`].
    pub class: usize,
    /// Its rectangle.
    pub rect: Rect,
    /// Its area in square pixels, which may be less than the rectangle's.
    pub area: f64,
    /// A crowd: many objects in one region.
    pub crowd: bool,
}

/// The labels of some pictures.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Truth {
    /// File names of the pictures.
    pub pictures: Vec<String>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Objects in the order of the file.
    pub objects: Vec<Object>,
}

/// A detection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredBox {
    /// Which picture: index into [`Truth::pictures`].
    pub picture: usize,
    /// Its class: index into [`Truth::classes`].
    pub class: usize,
    /// Its rectangle.
    pub rect: Rect,
    /// Its score.
    pub score: f64,
}

/// Which objects count, by area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// All objects.
    All,
    /// Up to 32 x 32 pixels.
    Small,
    /// Up to 96 x 96 pixels.
    Medium,
    /// From 96 x 96 pixels.
    Large,
}

impl Area {
    fn holds(self, area: f64) -> bool {
        let (least, most) = match self {
            Area::All => (0.0, 1e10),
            Area::Small => (0.0, 1024.0),
            Area::Medium => (1024.0, 9216.0),
            Area::Large => (9216.0, 1e10),
        };
        (least..=most).contains(&area)
    }
}

/// Average precision, 0..=1; none where there are no objects.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Ap {
    /// Mean over all IoU thresholds.
    pub ap50_95: Option<f64>,
    /// At an IoU of 0.50.
    pub ap50: Option<f64>,
}

/// Scores of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassScore {
    /// Index into [`Truth::classes`].
    pub class: usize,
    /// Number of objects that count.
    pub objects: usize,
    /// Its average precision.
    pub ap: Ap,
}

/// Scores of all classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Means over the classes that have objects.
    pub mean: Ap,
    /// The classes that have objects.
    pub classes: Vec<ClassScore>,
}

/// Scores `found` against `truth`, counting objects of `area`.
///
/// Ties keep their order: by picture, then as given.
pub fn score(truth: &Truth, found: &[ScoredBox], area: Area) -> Scores {
    let groups = Groups::new(truth, found);
    let mut classes = Vec::new();
    for class in 0..truth.classes.len() {
        let mut matched = Matched::default();
        for picture in 0..truth.pictures.len() {
            matched.add(&groups.scene(class, picture, area));
        }
        if let Some(ap) = matched.average_precision() {
            classes.push(ClassScore { class, objects: matched.objects, ap });
        }
    }
    let mean = |of: fn(&Ap) -> Option<f64>| {
        let all: Vec<f64> = classes.iter().filter_map(|class| of(&class.ap)).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    };
    Scores { mean: Ap { ap50_95: mean(|ap| ap.ap50_95), ap50: mean(|ap| ap.ap50) }, classes }
}

/// Objects and detections by class and picture.
struct Groups<'a> {
    objects: BTreeMap<(usize, usize), Vec<&'a Object>>,
    found: BTreeMap<(usize, usize), Vec<&'a ScoredBox>>,
}

impl<'a> Groups<'a> {
    fn new(truth: &'a Truth, all: &'a [ScoredBox]) -> Self {
        let mut objects: BTreeMap<_, Vec<&Object>> = BTreeMap::new();
        for object in &truth.objects {
            objects.entry((object.class, object.picture)).or_default().push(object);
        }
        let mut found: BTreeMap<_, Vec<&ScoredBox>> = BTreeMap::new();
        for one in all {
            found.entry((one.class, one.picture)).or_default().push(one);
        }
        Groups { objects, found }
    }

    fn scene(&self, class: usize, picture: usize, area: Area) -> Scene<'a> {
        let at = (class, picture);
        let ignored = |object: &Object| object.crowd || !area.holds(object.area);
        let objects = self.objects.get(&at).map_or(&[][..], Vec::as_slice);
        // Objects that count come first: a detection prefers them.
        let mut objects: Vec<(&Object, bool)> =
            objects.iter().map(|object| (*object, ignored(object))).collect();
        objects.sort_by_key(|(_, ignored)| *ignored);
        let mut found = self.found.get(&at).cloned().unwrap_or_default();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(DETECTIONS_PER_CLASS_MAX);
        Scene { objects, found, area }
    }
}

/// Result of matching a detection at one IoU threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Right,
    Wrong,
    /// Ignored.
    Ignored,
}

/// One class in one picture.
struct Scene<'a> {
    /// With a flag for ignored ones, which come last.
    objects: Vec<(&'a Object, bool)>,
    /// The strongest first, cut to the number that counts.
    found: Vec<&'a ScoredBox>,
    area: Area,
}

impl Scene<'_> {
    /// Objects that count.
    fn objects(&self) -> usize {
        self.objects.iter().filter(|(_, ignored)| !ignored).count()
    }

    /// The result of each detection at the IoU threshold `least`.
    fn outcomes(&self, least: f64) -> Vec<Outcome> {
        let mut taken = vec![false; self.objects.len()];
        let outcome = |found: &&ScoredBox| match best(found, &self.objects, &taken, least) {
            Some(object) => {
                taken[object] = true;
                if self.objects[object].1 { Outcome::Ignored } else { Outcome::Right }
            }
            None if !self.area.holds(found.rect[2] * found.rect[3]) => Outcome::Ignored,
            None => Outcome::Wrong,
        };
        self.found.iter().map(outcome).collect()
    }
}

/// The detections of one class, picture after picture.
#[derive(Default)]
struct Matched {
    /// Objects that count.
    objects: usize,
    scored: Vec<(f64, [Outcome; OVERLAPS])>,
}

impl Matched {
    fn add(&mut self, scene: &Scene<'_>) {
        self.objects += scene.objects();
        let at: [Vec<Outcome>; OVERLAPS] = std::array::from_fn(|overlap| scene.outcomes(overlap_at(overlap)));
        let outcomes = |index: usize| std::array::from_fn(|overlap| at[overlap][index]);
        self.scored
            .extend(scene.found.iter().enumerate().map(|(index, found)| (found.score, outcomes(index))));
    }

    fn average_precision(&mut self) -> Option<Ap> {
        if self.objects == 0 {
            return None;
        }
        self.scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let at: Vec<f64> = (0..OVERLAPS).map(|overlap| self.at(overlap)).collect();
        Some(Ap { ap50_95: Some(at.iter().sum::<f64>() / OVERLAPS as f64), ap50: Some(at[0]) })
    }

    /// Mean precision over all recalls.
    fn at(&self, overlap: usize) -> f64 {
        let (mut right, mut wrong) = (0u64, 0u64);
        // Recall and precision after each detection.
        let mut curve: Vec<(f64, f64)> = Vec::new();
        for (_, outcomes) in &self.scored {
            match outcomes[overlap] {
                Outcome::Right => right += 1,
                Outcome::Wrong => wrong += 1,
                Outcome::Ignored => {}
            }
            let found = (right + wrong) as f64 + f64::EPSILON;
            curve.push((right as f64 / self.objects as f64, right as f64 / found));
        }
        // Precision never increases with recall: take the maximum from the right.
        let mut best = 0.0f64;
        for (_, precision) in curve.iter_mut().rev() {
            best = best.max(*precision);
            *precision = best;
        }
        let precision = |recall: f64| {
            let at = curve.partition_point(|(reached, _)| *reached < recall);
            curve.get(at).map_or(0.0, |(_, precision)| *precision)
        };
        (0..RECALLS).map(|step| precision(step as f64 * 0.01)).sum::<f64>() / RECALLS as f64
    }
}

/// As `numpy.linspace(0.5, 0.95, 10)` rounds.
fn overlap_at(index: usize) -> f64 {
    let last = OVERLAPS - 1;
    if index == last { 0.95 } else { 0.5 + index as f64 * ((0.95 - 0.5) / last as f64) }
}

/// The object that `found` overlaps most, at least by `least`; one that counts if there is any. Ties: the later one.
fn best(found: &ScoredBox, objects: &[(&Object, bool)], taken: &[bool], least: f64) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, (object, ignored)) in objects.iter().enumerate() {
        if taken[index] && !object.crowd {
            continue;
        }
        if *ignored && best.is_some_and(|(hit, _)| !objects[hit].1) {
            break;
        }
        let overlap = overlap(&found.rect, object);
        if overlap >= best.map_or(least.min(1.0 - 1e-10), |(_, most)| most) {
            best = Some((index, overlap));
        }
    }
    best.map(|(index, _)| index)
}

/// Intersection over union; for a crowd over the detection's own area.
fn overlap([left, top, width, height]: &Rect, object: &Object) -> f64 {
    let [x, y, w, h] = object.rect;
    let across = (left + width).min(x + w) - left.max(x);
    let down = (top + height).min(y + h) - top.max(y);
    if across <= 0.0 || down <= 0.0 {
        return 0.0;
    }
    let (shared, own) = (across * down, width * height);
    shared / if object.crowd { own } else { own + w * h - shared }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(objects: &[(usize, Rect, bool)]) -> Truth {
        let object = |&(picture, rect, crowd): &(usize, Rect, bool)| Object {
            picture,
            class: 0,
            rect,
            area: rect[2] * rect[3],
            crowd,
        };
        Truth {
            pictures: vec!["a.jpg".into(), "b.jpg".into()],
            classes: vec!["car".into(), "bus".into()],
            objects: objects.iter().map(object).collect(),
        }
    }

    fn found(picture: usize, rect: Rect, score: f64) -> ScoredBox {
        ScoredBox { picture, class: 0, rect, score }
    }

    fn ap50(truth: &Truth, found: &[ScoredBox]) -> f64 {
        score(truth, found, Area::All).mean.ap50.unwrap()
    }

    const HERE: Rect = [10.0, 10.0, 40.0, 20.0];
    const THERE: Rect = [110.0, 10.0, 40.0, 20.0];

    #[test]
    fn perfect_detections_score_one_and_none_score_zero() {
        let truth = truth(&[(0, HERE, false), (1, THERE, false)]);
        let all = [found(0, HERE, 0.9), found(1, THERE, 0.2)];
        assert_eq!(score(&truth, &all, Area::All).mean, Ap { ap50_95: Some(1.0), ap50: Some(1.0) });
        assert_eq!(ap50(&truth, &[]), 0.0);
        assert_eq!(ap50(&truth, &[found(0, THERE, 0.9)]), 0.0);
    }

    #[test]
    fn half_of_the_objects_is_51_of_101_recalls() {
        let truth = truth(&[(0, HERE, false), (1, THERE, false)]);
        assert!((ap50(&truth, &[found(0, HERE, 0.9)]) - 51.0 / 101.0).abs() < 1e-12);
    }

    #[test]
    fn a_second_box_on_the_same_object_is_wrong_but_not_on_a_crowd() {
        let twice = [found(0, HERE, 0.9), found(0, HERE, 0.8), found(1, THERE, 0.7)];
        let plain = truth(&[(0, HERE, false), (1, THERE, false)]);
        // The second is wrong: precision at full recall is 2 of 3.
        assert!((ap50(&plain, &twice) - (51.0 + 50.0 * 2.0 / 3.0) / 101.0).abs() < 1e-12);
        let crowd = truth(&[(0, HERE, true), (1, THERE, false)]);
        assert!((ap50(&crowd, &twice) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_crowd_is_overlapped_by_the_detections_own_area() {
        let small = [found(0, [20.0, 12.0, 5.0, 5.0], 0.9), found(1, THERE, 0.5)];
        let crowd = truth(&[(0, HERE, true), (1, THERE, false)]);
        assert!((ap50(&crowd, &small) - 1.0).abs() < 1e-12);
        // On a single object of that size it is wrong, and ranks before the right one.
        assert!(ap50(&truth(&[(0, HERE, false), (1, THERE, false)]), &small) < 0.3);
    }

    #[test]
    fn only_objects_of_the_size_count_and_boxes_of_other_sizes_do_not_hurt() {
        let big: Rect = [0.0, 0.0, 200.0, 200.0];
        let both = truth(&[(0, HERE, false), (1, big, false)]);
        let all = [found(0, HERE, 0.5), found(1, big, 0.9), found(1, [300.0, 0.0, 200.0, 200.0], 0.8)];
        for area in [Area::Small, Area::Large] {
            let scores = score(&both, &all, area);
            assert_eq!(scores.classes[0].objects, 1);
            assert!((scores.mean.ap50.unwrap() - 1.0).abs() < 1e-12, "{area:?}");
        }
        assert_eq!(score(&both, &all, Area::Medium).mean, Ap::default());
    }

    #[test]
    fn the_hundred_strongest_of_a_picture_count() {
        let truth = truth(&[(0, HERE, false)]);
        let mut many: Vec<ScoredBox> = (0..100).map(|n| found(0, THERE, 0.9 - f64::from(n) * 1e-3)).collect();
        many.push(found(0, HERE, 0.1));
        assert_eq!(ap50(&truth, &many), 0.0);
        many.remove(0);
        assert!((ap50(&truth, &many) - 0.01).abs() < 1e-9);
    }

    #[test]
    fn a_class_without_objects_has_no_score() {
        let scores = score(&truth(&[(0, HERE, false)]), &[found(0, HERE, 0.9)], Area::All);
        assert_eq!(scores.classes.len(), 1);
        assert_eq!(score(&truth(&[]), &[found(0, HERE, 0.9)], Area::All).mean, Ap::default());
    }
}
