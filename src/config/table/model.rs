//! `[model]`.

use super::{Scope, Section, choice, names, number, text, whole, wholes};
use crate::config::sections::model::PRECISIONS;
use crate::platform::cores::CORES_MAX;

pub(super) const MODEL: Section = Section::new("model", Scope::Model, &[
    text("path", "").help(
        "ONNX file of a YOLO11 or YOLOv8 detector, or \"builtin\" for the small one that comes with the program. The option \
        --model overrides it. The README explains how to export one.",
    ),
    text("sha256", "").help(
        "SHA-256 of the model file, 64 hexadecimal digits as sha256sum prints them. Needed for a file that flytrap does not \
        know: it states that you trust this file. \"\" = load only known files.",
    ),
    whole("threads", 0, 0, 8).unit("threads").special(0, "automatic").help(
        "Threads that run the network. Automatic = one per core except one, which is left to the camera; if model.cores selects \
        only some cores, one per selected core; at most 4. Lower it to leave CPU time to other programs.",
    ),
    wholes("cores", 0, CORES_MAX as i64 - 1, "[2, 3]").help(
        "CPU cores to run the network on, by their Linux numbers, such as [2, 3]. [] = the fast cores of a board with fast and \
        slow ones (big.LITTLE), on other boards all cores.",
    ),
    number("load_max", 0.8, 0.1, 1.0).help(
        "Part of its time for which the network may be busy. Above it the frame rates of all cameras fall evenly, and rise again when \
        there is room: an even lower rate counts better than frames that are dropped when traffic is heavy, and the board stays cooler. \
        1.0 = no limit. Recordings with --until-end have none.",
    ).live(),
    choice("precision", "fp32", const { &names(&PRECISIONS) }).help(
        "Precision of the network. \"fp16\" uses 16-bit numbers and is about half the work; it needs an ARM v8.2 CPU \
        (Cortex-A76, not A72). \"int8\" uses 8-bit numbers in the layers where that costs little accuracy; run \
        `flytrap calibrate` first.",
    ),
    text("ranges", "").help(
        "File with the value ranges for \"int8\", written by `flytrap calibrate`. \"\" = NAME.int8.toml beside NAME.onnx.",
    ),
]);
