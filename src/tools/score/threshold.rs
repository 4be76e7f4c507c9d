//! Choice of the score threshold: precision and recall at each threshold, and the best one.
//!
//! Detections are matched by the rules of [`super`] at one IoU threshold. A match depends on stronger detections only, so matching happens
//! once, and a threshold counts the detections from its score on: the same as removing weaker ones before matching. Several classes are
//! counted together, each detection and object once: a class with many objects weighs more.

use std::cmp::Reverse;

use super::{Area, Groups, Outcome, ScoredBox, Truth};

/// The figures at one threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Detections of this score and above count.
    pub threshold: f64,
    /// True positives.
    pub right: usize,
    /// False positives.
    pub wrong: usize,
    /// Number of objects, crowds excluded.
    pub objects: usize,
}

impl Point {
    /// Number of detections, without those on crowds, which are ignored.
    pub fn predictions(&self) -> usize {
        self.right + self.wrong
    }

    /// Precision: the fraction of detections that are right; none without detections, rather than 1.
    pub fn precision(&self) -> Option<f64> {
        part(self.right, self.predictions())
    }

    /// Recall: the fraction of objects that were found.
    pub fn recall(&self) -> Option<f64> {
        part(self.right, self.objects)
    }

    /// F1, the harmonic mean of both; none where one of them is missing.
    pub fn f1(&self) -> Option<f64> {
        self.precision().and(self.recall()).and(part(2 * self.right, self.predictions() + self.objects))
    }
}

fn part(some: usize, all: usize) -> Option<f64> {
    (all > 0).then(|| some as f64 / all as f64)
}

/// Matched detections.
#[derive(Debug, Clone, PartialEq)]
pub struct Matches {
    objects: usize,
    /// Scores, highest first, without detections on crowds.
    scores: Vec<f64>,
    /// Number of right ones among the first n, n from 0.
    right: Vec<usize>,
}

impl Matches {
    /// Matches the detections of `classes` at the IoU threshold `overlap`.
    pub fn new(truth: &Truth, found: &[ScoredBox], classes: &[usize], overlap: f64) -> Self {
        let groups = Groups::new(truth, found);
        let (mut objects, mut scored) = (0, Vec::new());
        for class in classes {
            for picture in 0..truth.pictures.len() {
                let scene = groups.scene(*class, picture, Area::All);
                objects += scene.objects();
                let outcomes = scene.found.iter().map(|found| found.score).zip(scene.outcomes(overlap));
                scored.extend(outcomes.filter(|(_, outcome)| *outcome != Outcome::Ignored));
            }
        }
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut right = vec![0];
        for (_, outcome) in &scored {
            right.push(right.last().copied().unwrap_or(0) + usize::from(*outcome == Outcome::Right));
        }
        Matches { objects, scores: scored.into_iter().map(|(score, _)| score).collect(), right }
    }

    /// Number of objects, crowds excluded.
    pub fn objects(&self) -> usize {
        self.objects
    }

    /// The figures at `threshold`. Compares in 32 bits, as the decoder does.
    pub fn at(&self, threshold: f64) -> Point {
        let least = threshold as f32;
        self.point(threshold, self.scores.partition_point(|score| *score as f32 >= least))
    }

    /// The figures with each occurring score as threshold, from the highest to the lowest.
    pub fn curve(&self) -> Vec<Point> {
        let last_of_its_score = |index: &usize| self.scores.get(index + 1) != Some(&self.scores[*index]);
        let lasts = (0..self.scores.len()).filter(last_of_its_score);
        lasts.map(|index| self.point(self.scores[index], index + 1)).collect()
    }

    fn point(&self, threshold: f64, count: usize) -> Point {
        let right = self.right[count];
        Point { threshold, right, wrong: count - right, objects: self.objects }
    }
}

/// 0.10, 0.15 … 0.90; `fine`: 0.05, 0.06 … 0.95.
pub fn thresholds(fine: bool) -> Vec<f64> {
    let (first, last, step) = if fine { (5, 95, 1) } else { (10, 90, 5) };
    (first..=last).step_by(step).map(|percent| f64::from(percent) / 100.0).collect()
}

/// The chosen threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// The highest recall that meets the target precision; ties: the higher precision, then the higher threshold.
    Met(Point),
    /// No threshold meets it: this one has the highest precision; ties: the higher recall, then the higher threshold.
    Missed(Point),
    /// There are no detections at any threshold.
    Nothing,
}

/// Chooses among `points`, which are all of the same detections, for a precision of at least `target`.
pub fn choose(points: &[Point], target: f64) -> Choice {
    let found = || points.iter().filter_map(|point| Some((point, point.precision()?)));
    let by_threshold = |a: &Point, b: &Point| a.threshold.total_cmp(&b.threshold);
    // The number of objects is the same everywhere: more true positives mean higher recall, and fewer false positives higher precision.
    let most_found = |a: &&Point, b: &&Point| {
        (a.right, Reverse(a.wrong)).cmp(&(b.right, Reverse(b.wrong))).then(by_threshold(a, b))
    };
    let met =
        found().filter(|(_, precision)| *precision >= target).map(|(point, _)| point).max_by(most_found);
    if let Some(point) = met {
        return Choice::Met(*point);
    }
    let nearest = found().max_by(|(a, a_precision), (b, b_precision)| {
        a_precision.total_cmp(b_precision).then(a.right.cmp(&b.right)).then(by_threshold(a, b))
    });
    nearest.map_or(Choice::Nothing, |(point, _)| Choice::Missed(*point))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{DETECTIONS_PER_CLASS_MAX, Object, Rect};
    use super::*;

    const HERE: Rect = [10.0, 10.0, 40.0, 20.0];
    const THERE: Rect = [110.0, 10.0, 40.0, 20.0];

    fn object(picture: usize, class: usize, rect: Rect, crowd: bool) -> Object {
        Object { picture, class, rect, area: rect[2] * rect[3], crowd }
    }

    fn found(class: usize, rect: Rect, score: f64) -> ScoredBox {
        ScoredBox { picture: 0, class, rect, score }
    }

    fn truth(objects: Vec<Object>) -> Truth {
        let names = |names: [&str; 2]| names.map(String::from).to_vec();
        Truth { pictures: names(["a.jpg", "b.jpg"]), classes: names(["car", "bus"]), objects }
    }

    fn point(threshold: f64, right: usize, wrong: usize) -> Point {
        Point { threshold, right, wrong, objects: 10 }
    }

    #[test]
    fn thresholds_are_the_originals_seventeen_or_finer() {
        let coarse = thresholds(false);
        assert_eq!((coarse.len(), coarse[0], coarse[5], coarse[16]), (17, 0.1, 0.35, 0.9));
        let fine = thresholds(true);
        assert_eq!((fine.len(), fine[0], fine[1], fine[90]), (91, 0.05, 0.06, 0.95));
        assert!(coarse.iter().all(|threshold| fine.contains(threshold)));
    }

    #[test]
    fn a_threshold_counts_from_its_own_score_on() {
        let truth = truth(vec![object(0, 0, HERE, false), object(0, 1, THERE, false)]);
        let all = [found(0, HERE, 0.5), found(0, THERE, 0.5), found(1, THERE, 0.25), found(1, HERE, 0.1)];
        let both = Matches::new(&truth, &all, &[0, 1], 0.5);
        let counts = |threshold| {
            let point = both.at(threshold);
            (point.right, point.wrong, point.objects)
        };
        assert_eq!(counts(0.51), (0, 0, 2));
        assert_eq!(counts(0.5), (1, 1, 2));
        assert_eq!(counts(0.25), (2, 1, 2));
        assert_eq!(counts(0.05), (2, 2, 2));
        let curve: Vec<_> = both.curve().iter().map(|at| (at.threshold, at.right, at.wrong)).collect();
        assert_eq!(curve, [(0.5, 1, 1), (0.25, 2, 1), (0.1, 2, 2)]);
        let buses = Matches::new(&truth, &all, &[1], 0.5);
        assert_eq!((buses.objects(), buses.curve().len()), (1, 2));
        // 0.7 in 32 bits is less than in 64, 0.72 is more: either way a score that is the setting counts.
        for setting in [0.7f32, 0.72] {
            let text: f64 = setting.to_string().parse().unwrap();
            assert!(f64::from(setting) != text);
            for score in [f64::from(setting), text] {
                assert_eq!(Matches::new(&truth, &[found(0, HERE, score)], &[0], 0.5).at(text).right, 1);
            }
        }
    }

    #[test]
    fn a_second_box_is_wrong_and_a_crowd_is_ignored() {
        let twice = [found(0, HERE, 0.9), found(0, HERE, 0.8)];
        let at = |crowd| Matches::new(&truth(vec![object(0, 0, HERE, crowd)]), &twice, &[0], 0.5).at(0.5);
        assert_eq!((at(false).right, at(false).wrong, at(false).objects), (1, 1, 1));
        assert_eq!((at(true).predictions(), at(true).objects), (0, 0));
    }

    #[test]
    fn without_detections_there_is_no_precision() {
        let none = point(0.9, 0, 0);
        assert_eq!((none.precision(), none.recall(), none.f1()), (None, Some(0.0), None));
        let some = point(0.5, 4, 1);
        assert_eq!((some.precision(), some.recall()), (Some(0.8), Some(0.4)));
        assert!((some.f1().unwrap() - 2.0 * 0.8 * 0.4 / (0.8 + 0.4)).abs() < 1e-12);
    }

    #[test]
    fn the_choice_prefers_recall_then_precision_then_threshold() {
        let (low, middle, high) = (point(0.1, 8, 8), point(0.5, 6, 2), point(0.8, 4, 1));
        for (points, target, expected) in [
            (&[low, middle, high][..], 0.8, Choice::Met(high)),
            (&[low, middle, high], 0.75, Choice::Met(middle)),
            (&[low, middle, high], 0.0, Choice::Met(low)),
            // The highest threshold that meets the target throws detections away.
            (&[point(0.4, 4, 0), point(0.9, 1, 0)], 0.8, Choice::Met(point(0.4, 4, 0))),
            // Equal recall: fewer false positives, then the higher threshold.
            (&[point(0.2, 4, 0), point(0.3, 4, 0), point(0.4, 4, 1)], 0.8, Choice::Met(point(0.3, 4, 0))),
            (&[low, middle, high], 0.9, Choice::Missed(high)),
            (&[point(0.3, 2, 2), point(0.4, 2, 2), point(0.5, 1, 1)], 0.9, Choice::Missed(point(0.4, 2, 2))),
            // A point without detections meets no target, and is not the nearest either.
            (&[low, point(0.9, 0, 0)], 0.8, Choice::Missed(low)),
            (&[point(0.9, 0, 0)], 0.0, Choice::Nothing),
            (&[], 0.0, Choice::Nothing),
        ] {
            assert_eq!(choose(points, target), expected, "{points:?}, {target}");
        }
    }

    /// Counts by the definition: first remove detections below the threshold, then let each remaining one, strongest first, take the object
    /// that it overlaps most. Boxes, objects and crowds as integers, a rule a line.
    fn oracle(
        truth: &Truth,
        all: &[ScoredBox],
        classes: &[usize],
        overlap: f64,
        threshold: f64,
    ) -> (usize, usize) {
        let (mut right, mut wrong) = (0, 0);
        for picture in 0..truth.pictures.len() {
            for class in classes {
                let here: Vec<&Object> =
                    truth.objects.iter().filter(|o| o.picture == picture && o.class == *class).collect();
                let mut left: Vec<&ScoredBox> = all
                    .iter()
                    .filter(|f| {
                        f.picture == picture && f.class == *class && f.score as f32 >= threshold as f32
                    })
                    .collect();
                let mut free: Vec<bool> = vec![true; here.len()];
                for _ in 0..DETECTIONS_PER_CLASS_MAX {
                    // `rev`: ties go to the first.
                    let strongest =
                        (0..left.len()).rev().max_by(|a, b| left[*a].score.total_cmp(&left[*b].score));
                    let Some(strongest) = strongest else { break };
                    let found = left.remove(strongest);
                    let shared = |object: &Object| {
                        let side = |axis: usize| {
                            let ends = [found.rect, object.rect].map(|r| (r[axis], r[axis] + r[axis + 2]));
                            (ends[0].1.min(ends[1].1) - ends[0].0.max(ends[1].0)).max(0.0)
                        };
                        side(0) * side(1)
                    };
                    let area = |rect: &Rect| rect[2] * rect[3];
                    let single = |index: &usize| {
                        let both = shared(here[*index]);
                        both / (area(&found.rect) + area(&here[*index].rect) - both)
                    };
                    let hit = (0..here.len())
                        .filter(|index| !here[*index].crowd && free[*index] && single(index) >= overlap)
                        .max_by(|a, b| single(a).total_cmp(&single(b)));
                    if let Some(hit) = hit {
                        free[hit] = false;
                        right += 1;
                    } else if !here.iter().any(|o| o.crowd && shared(o) / area(&found.rect) >= overlap) {
                        wrong += 1;
                    }
                }
            }
        }
        (right, wrong)
    }

    /// Few positions and sizes, so that boxes often overlap and scores are often equal.
    fn rect() -> impl Strategy<Value = Rect> {
        [0u8..6, 0u8..3, 1u8..5, 1u8..5].prop_map(|numbers| numbers.map(f64::from))
    }

    fn objects() -> impl Strategy<Value = Vec<Object>> {
        let one =
            (0usize..2, 0usize..2, rect(), 0u8..6).prop_map(|(p, c, r, crowd)| object(p, c, r, crowd == 0));
        proptest::collection::vec(one, 0..12)
    }

    fn detections(most: usize) -> impl Strategy<Value = Vec<ScoredBox>> {
        let one = (0usize..2, 0usize..2, rect(), 0u8..=20).prop_map(|(picture, class, rect, score)| {
            ScoredBox { picture, class, rect, score: f64::from(f32::from(score) / 20.0) }
        });
        proptest::collection::vec(one, 0..most)
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_oracle(
            objects in objects(), all in detections(40), overlap in 0.2f64..0.9, only_first in any::<bool>()
        ) {
            let truth = truth(objects);
            let classes: &[usize] = if only_first { &[0] } else { &[0, 1] };
            let matches = Matches::new(&truth, &all, classes, overlap);
            let counted = truth.objects.iter().filter(|o| classes.contains(&o.class) && !o.crowd).count();
            prop_assert_eq!(matches.objects(), counted);
            for threshold in thresholds(true) {
                let point = matches.at(threshold);
                let expected = oracle(&truth, &all, classes, overlap, threshold);
                prop_assert_eq!((point.right, point.wrong), expected, "at {}", threshold);
            }
            for point in matches.curve() {
                let expected = oracle(&truth, &all, classes, overlap, point.threshold);
                prop_assert_eq!((point.right, point.wrong), expected, "at {}", point.threshold);
            }
        }

        /// Also with more detections in a picture than count.
        #[test]
        fn removing_weak_detections_before_matching_changes_nothing(objects in objects(), all in detections(700), percent in 0u8..=100) {
            let truth = truth(objects);
            let threshold = f64::from(percent) / 100.0;
            let strong: Vec<ScoredBox> = all.iter().copied().filter(|f| f.score as f32 >= threshold as f32).collect();
            let of = |found: &[ScoredBox]| Matches::new(&truth, found, &[0, 1], 0.5).at(threshold);
            prop_assert_eq!(of(&all), of(&strong));
        }

        #[test]
        fn the_choice_is_the_best_of_all_pairs(counts in proptest::collection::vec((0usize..6, 0usize..6), 0..8), target in 0.0f64..1.0) {
            let points: Vec<Point> =
                counts.iter().enumerate().map(|(n, (right, wrong))| point(n as f64 / 10.0, *right, *wrong)).collect();
            let key = |p: &Point| (p.recall().unwrap(), p.precision().unwrap(), p.threshold);
            let meets = |p: &Point| p.predictions() > 0 && p.precision().unwrap() >= target;
            match choose(&points, target) {
                Choice::Met(chosen) => {
                    prop_assert!(meets(&chosen) && points.contains(&chosen));
                    prop_assert!(points.iter().filter(|p| meets(p)).all(|p| key(p) <= key(&chosen)));
                }
                Choice::Missed(near) => {
                    prop_assert!(points.contains(&near) && !points.iter().any(meets));
                    let near = near.precision().unwrap();
                    prop_assert!(points.iter().filter_map(Point::precision).all(|precision| precision <= near));
                }
                Choice::Nothing => prop_assert!(points.iter().all(|p| p.predictions() == 0)),
            }
        }
    }
}
