//! The network that all cameras share.

use super::path;
use crate::config::scopes::Model;
use crate::config::values::{Value, Values};
use crate::platform::cores::Machine;
use crate::vision::detect::engine::{EngineParams, Precision};
use crate::vision::detect::model;

/// How precisely the network computes.
pub(in crate::config) const PRECISIONS: [(&str, Precision); Precision::ALL.len()] = {
    let mut precisions = [("", Precision::Fp32); Precision::ALL.len()];
    let mut index = 0;
    while index < Precision::ALL.len() {
        precisions[index] = (Precision::ALL[index].name(), Precision::ALL[index]);
        index += 1;
    }
    precisions
};

/// "Automatic" values are derived from `machine`.
pub(in crate::config) fn model(values: &mut Values, machine: &Machine) -> Model {
    let core = |item: &Value| match item {
        Value::Int(id) => usize::try_from(*id).ok(),
        Value::Bool(_) | Value::Float(_) | Value::Text(_) | Value::List(_) => None,
    };
    let asked: Vec<usize> = values.list("model.cores").iter().filter_map(core).collect();
    let cores = machine.cores_for(asked);
    let threads = machine.threads_for(values.int("model.threads") as usize, &cores);
    let precision = values.choice("model.precision", &PRECISIONS);
    let engine = EngineParams { threads, precision, ..EngineParams::default() };
    let (sha256, ranges) = (sha256(values), path(values, "model.ranges"));
    let params =
        path(values, "model.path").map(|path| model::Params { path, sha256, engine, ranges, trial: None });
    Model { params, cores, load_max: values.float("model.load_max") }
}

fn sha256(values: &mut Values) -> Option<String> {
    let text = values.text_or_none("model.sha256")?.to_ascii_lowercase();
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        values.mistake("model.sha256", "must be the 64 hexadecimal digits that sha256sum prints");
    }
    Some(text)
}
