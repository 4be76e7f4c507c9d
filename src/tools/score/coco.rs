//! COCO's files: `instances.json` (ground truth) and results (detections).

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Object, Rect, ScoredBox, Truth};
use crate::base::error::{Error, Kind, Result};

/// The parts of `instances.json` that matter here.
#[derive(Deserialize)]
struct Instances {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: i64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: i64,
    category_id: i64,
    bbox: Rect,
    area: Option<f64>,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
}

/// One entry of a results file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Detected {
    image_id: i64,
    category_id: i64,
    bbox: Rect,
    score: f64,
}

/// The ids of a file's pictures and classes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ids {
    /// Image id of each picture, by its index.
    pub pictures: Vec<i64>,
    /// Category id of each class, by its index.
    pub classes: Vec<i64>,
}

/// Reads `instances.json`. Pictures are taken in the order of their ids, as COCO's own program does.
///
/// # Errors
/// `Kind::Config`: not such a file, with the position of the mistake; an annotation of a picture or class that is not
/// listed.
pub fn truth(text: &str, place: &Path) -> Result<(Truth, Ids)> {
    let wrong = |why: String| {
        Error::fatal(Kind::Config, format!("'{}' is not COCO's instances.json: {why}", place.display()))
    };
    let mut file: Instances = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    file.images.sort_by_key(|image| image.id);
    if let Some(twice) = file.images.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(wrong(format!("two images have the id {}", twice[0].id)));
    }
    if file.images.is_empty() {
        return Err(wrong("it lists no images".into()));
    }
    for (at, category) in file.categories.iter().enumerate() {
        let same = |other: &&Category| other.id == category.id || other.name == category.name;
        if let Some(other) = file.categories[..at].iter().find(same) {
            return Err(wrong(format!("two categories are {} '{}'", other.id, other.name)));
        }
    }
    let ids = Ids {
        pictures: file.images.iter().map(|image| image.id).collect(),
        classes: file.categories.iter().map(|category| category.id).collect(),
    };
    let (pictures, classes) = (ids.by_picture(), ids.by_class());
    let mut objects = Vec::with_capacity(file.annotations.len());
    for (index, annotation) in file.annotations.iter().enumerate() {
        let Annotation { image_id, category_id, bbox, area, iscrowd } = annotation;
        let wrong = |why: String| wrong(format!("annotation {index}: {why}"));
        if bbox.iter().any(|side| !side.is_finite()) || bbox[2] < 0.0 || bbox[3] < 0.0 {
            return Err(wrong(format!("{bbox:?} is not a box")));
        }
        objects.push(Object {
            picture: *pictures.get(image_id).ok_or_else(|| wrong(format!("no image {image_id}")))?,
            class: *classes.get(category_id).ok_or_else(|| wrong(format!("no category {category_id}")))?,
            rect: *bbox,
            area: area.unwrap_or(bbox[2] * bbox[3]),
            crowd: *iscrowd != 0,
        });
    }
    let truth = Truth {
        pictures: file.images.into_iter().map(|image| image.file_name).collect(),
        classes: file.categories.into_iter().map(|category| category.name).collect(),
        objects,
    };
    Ok((truth, ids))
}

/// Reads a file of results.
///
/// # Errors
/// `Kind::Config`: not such a file, with the position of the mistake; a picture or class that the labels do not have.
pub fn found(text: &str, place: &Path, ids: &Ids) -> Result<Vec<ScoredBox>> {
    let wrong = |why: String| {
        Error::fatal(Kind::Config, format!("'{}' is not a file of COCO results: {why}", place.display()))
    };
    let file: Vec<Detected> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let (pictures, classes) = (ids.by_picture(), ids.by_class());
    let mut all = Vec::with_capacity(file.len());
    for (index, Detected { image_id, category_id, bbox, score }) in file.into_iter().enumerate() {
        let wrong = |why: String| wrong(format!("result {index}: {why}"));
        if bbox.iter().chain([&score]).any(|number| !number.is_finite()) {
            return Err(wrong("a number that is not finite".into()));
        }
        all.push(ScoredBox {
            picture: *pictures
                .get(&image_id)
                .ok_or_else(|| wrong(format!("the labels have no image {image_id}")))?,
            class: *classes
                .get(&category_id)
                .ok_or_else(|| wrong(format!("the labels have no category {category_id}")))?,
            rect: bbox,
            score,
        });
    }
    Ok(all)
}

/// A file of results.
///
/// # Errors
/// `Kind::System`: a bug.
pub fn results(found: &[ScoredBox], ids: &Ids) -> Result<String> {
    let lines: Vec<Detected> = found
        .iter()
        .map(|found| Detected {
            image_id: ids.pictures[found.picture],
            category_id: ids.classes[found.class],
            bbox: found.rect,
            score: found.score,
        })
        .collect();
    serde_json::to_string(&lines)
        .map_err(|error| Error::fatal(Kind::System, "results could not be written as JSON").caused_by(error))
}

impl Ids {
    /// Ids where the labels have none: pictures and classes from 1.
    pub fn counted(truth: &Truth) -> Self {
        Ids {
            pictures: (1..=truth.pictures.len() as i64).collect(),
            classes: (1..=truth.classes.len() as i64).collect(),
        }
    }

    fn by_picture(&self) -> HashMap<i64, usize> {
        self.pictures.iter().enumerate().map(|(index, id)| (*id, index)).collect()
    }

    fn by_class(&self) -> HashMap<i64, usize> {
        self.classes.iter().enumerate().map(|(index, id)| (*id, index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"images": [{"id": 9, "file_name": "b.jpg"}, {"id": 4, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 10.5, "iscrowd": 1}],
        "categories": [{"id": 3, "name": "car"}]}"#;

    #[test]
    fn instances_are_read() {
        let (truth, ids) = truth(GOOD, Path::new("x.json")).unwrap();
        assert_eq!(truth.pictures, ["a.jpg", "b.jpg"]);
        let object = Object { picture: 1, class: 0, rect: [1.0, 2.0, 3.0, 4.0], area: 10.5, crowd: true };
        assert_eq!(truth.objects, [object]);
        let one = ScoredBox { picture: 1, class: 0, rect: [0.5, 2.0, 3.0, 4.0], score: 0.25 };
        let text = results(&[one], &ids).unwrap();
        assert_eq!(text, r#"[{"image_id":9,"category_id":3,"bbox":[0.5,2.0,3.0,4.0],"score":0.25}]"#);
        assert_eq!(found(&text, Path::new("r.json"), &ids).unwrap(), [one]);
    }

    #[test]
    fn errors_name_the_position() {
        let of = |old: &str, new: &str| {
            let error = truth(&GOOD.replace(old, new), Path::new("x.json")).unwrap_err().to_string();
            assert!(error.contains("'x.json'"), "{error}");
            error
        };
        assert!(of("\"images\"", "\"pictures\"").contains("images"));
        assert!(of("\"category_id\": 3", "\"category_id\": 5").contains("annotation 0: no category 5"));
        assert!(of("\"image_id\": 9", "\"image_id\": 8").contains("annotation 0: no image 8"));
        assert!(of("\"id\": 9", "\"id\": 4").contains("two images have the id 4"));
        let twice = r#"[{"id": 3, "name": "car"}, {"id": 4, "name": "car"}]"#;
        assert!(of(r#"[{"id": 3, "name": "car"}]"#, twice).contains("two categories are 3 'car'"));
        let none = GOOD.find("\"annotations\"").unwrap();
        assert!(of(&GOOD[..none], "{\"images\": [], ").contains("no images"));
        assert!(of("[1, 2, 3, 4]", "[1, 2, -3, 4]").contains("is not a box"));
        let (_, ids) = truth(GOOD, Path::new("x.json")).unwrap();
        let text = r#"[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 1}]"#;
        let error = found(text, Path::new("r.json"), &ids).unwrap_err().to_string();
        assert!(error.contains("'r.json'") && error.contains("no image 1"), "{error}");
    }
}
