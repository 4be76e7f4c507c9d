//! `flytrap cameras`: lists the connected cameras and their formats.

use serde_json::json;

use super::{Failed, print};
use crate::capture::v4l2::{self, CameraInfo, Control, Range};

/// Lists the cameras: text for people, or one JSON object a line.
pub(super) fn cameras(json: bool) -> Result<(), Failed> {
    let found = v4l2::list()?;
    if found.is_empty() && !json {
        print("no camera: check the cable, and that this user may read /dev/video* (group video)")?;
    }
    for camera in &found {
        if json {
            print(&as_json(camera).to_string())?;
        } else {
            print(&as_text(camera))?;
        }
    }
    Ok(())
}

fn as_json(found: &CameraInfo) -> serde_json::Value {
    let offers = found.offers.iter().map(|offer| {
        let (pixel, width, height) = (offer.pixel.name(), offer.width, offer.height);
        json!({ "pixel": pixel, "width": width, "height": height, "fps_max": offer.fps_max })
    });
    json!({
        "node": found.node,
        "stable_path": found.stable,
        "name": found.info.name,
        "driver": found.info.driver,
        "bus": found.info.bus,
        "formats": offers.collect::<Vec<_>>(),
        "controls": found.controls.iter().map(control_json).collect::<Vec<_>>(),
    })
}

fn control_json(control: &Control) -> serde_json::Value {
    let range = match &control.range {
        Range::Switch => json!({ "type": "switch" }),
        Range::Number { min, max, step } => json!({ "type": "number", "min": min, "max": max, "step": step }),
        Range::Menu(items) => {
            let items = items.iter().map(|(number, name)| json!({ "number": number, "name": name }));
            json!({ "type": "menu", "items": items.collect::<Vec<_>>() })
        }
    };
    let Control { name, default, value, writable, inactive, .. } = control;
    json!({
        "name": name, "range": range, "default": default, "value": value, "writable": writable, "inactive": inactive,
    })
}

fn as_text(found: &CameraInfo) -> String {
    let info = &found.info;
    let mut text = format!("{}: {} ({}, {})", found.node.display(), info.name, info.driver, info.bus);
    let source = found.stable.as_ref().unwrap_or(&found.node);
    text += &format!("\n  camera.source = \"v4l2:{}\"", source.display());
    for offer in &found.offers {
        let rate = offer.fps_max.map_or(String::new(), |fps| format!(", up to {fps} frames a second"));
        text += &format!("\n  {} {}x{}{rate}", offer.pixel, offer.width, offer.height);
    }
    if found.offers.is_empty() {
        text += "\n  no supported format (for raw Bayer use exec:rpicam-vid ...)";
    }
    for control in &found.controls {
        let Control { name, range, value, .. } = control;
        let value = value.map_or("?".to_owned(), |value| value.to_string());
        text += &format!("\n  {name} = {value} ({range})");
    }
    text
}
