//! Hostile bytes for the JSON of a history, and for what comes as signals in the stream.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::checkpoint::{Checkpoint, position_of};
use super::epoch::Epoch;
use super::evidence::Evidence;
use super::expiry::Expiry;
use super::key::Key;
use super::{Identity, object, read_json, read_object};
use crate::hostile::throw;
use crate::signal::{HeartbeatSignal, MarkSignal, SequenceSample};
use crate::store::{Folder, ObjectKind, ObjectName};

const MANIFEST: &str = include_str!("../../fixtures/damaged/seeds/checkpoint.json");
const EPOCH: &str = include_str!("../../fixtures/damaged/seeds/epoch.json");
const IDENTITY: &str = include_str!("../../fixtures/damaged/seeds/history.json");
const EVIDENCE: &str = include_str!("../../fixtures/damaged/seeds/evidence.json");
const EXPIRY: &str = include_str!("../../fixtures/damaged/seeds/expiry.json");

/// Reads the bytes as an object whose digest is made right.
fn read<T: DeserializeOwned>(folder: &Path, bytes: &[u8]) -> Result<Option<T>, String> {
    let (store, name) = (Folder::new(folder), ObjectName::only(ObjectKind::CopyIntent));
    std::fs::write(folder.join("copy.json"), object::with_digest(bytes)).unwrap();
    read_json(&store, &name).map_err(|error| error.to_string().replace(&folder.display().to_string(), ""))
}

/// An object's text without its digest, which is made right later.
fn seed(text: &str) -> Vec<u8> {
    text.split_once(",\n").unwrap().1.as_bytes().to_vec()
}

#[test]
fn manifests_epochs_and_identities_of_any_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(read::<Checkpoint>(folder, &seed(MANIFEST)).unwrap().is_some());
    assert!(read::<Epoch>(folder, &seed(EPOCH)).unwrap().is_some());
    assert!(read::<Identity>(folder, &seed(IDENTITY)).unwrap().is_some());
    assert!(read::<Evidence>(folder, &seed(EVIDENCE)).unwrap().is_some());
    throw("manifest", vec![seed(MANIFEST)], |bytes| match read::<Checkpoint>(folder, bytes) {
        Ok(Some(checkpoint)) => {
            let rows = checkpoint.rows();
            let sound = checkpoint.is_sound();
            format!("{rows} {sound} {:?}", position_of(&checkpoint.id).is_some())
        }
        other => format!("{:?}", other.err()),
    });
    throw("epoch", vec![seed(EPOCH)], |bytes| format!("{:?}", read::<Epoch>(folder, bytes).err()));
    throw("identity", vec![seed(IDENTITY)], |bytes| match read::<Identity>(folder, bytes) {
        Ok(Some(identity)) => format!("{:?} {}", identity.id_bytes().is_ok(), identity.slot().len()),
        other => format!("{:?}", other.err()),
    });
    assert!(read::<Expiry>(folder, &seed(EXPIRY)).unwrap().is_some());
    throw("expiry", vec![seed(EXPIRY)], |bytes| match read::<Expiry>(folder, bytes) {
        Ok(Some(expiry)) => format!("{}", expiry.covers_checkpoint(&expiry.checkpoint)),
        other => format!("{:?}", other.err()),
    });
    throw("evidence", vec![seed(EVIDENCE)], |bytes| format!("{:?}", read::<Evidence>(folder, bytes).err()));
}

#[test]
fn keys_and_tagged_objects_of_any_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let key = include_bytes!("../../fixtures/formats/keyed-v1/key").to_vec();
    throw("key file", vec![key.clone()], |bytes| {
        std::fs::write(&file, bytes).unwrap();
        Key::read(&file).map_or_else(|error| format!("{:?}", error.kind()), |key| key.id())
    });
    std::fs::write(&file, key).unwrap();
    let authorship = Key::read(&file).unwrap().authorship(*b"history-for-test");
    let (store, name) = (Folder::new(folder.path()), ObjectName::only(ObjectKind::Identity));
    let path = folder.path().join("history.json");
    let whole = seed(include_str!("../../fixtures/formats/keyed-v1/history.json"));
    throw("tagged object", vec![whole.clone()], |bytes| {
        std::fs::write(&path, object::with_digest(bytes)).unwrap();
        let read = read_object::<Identity>(&store, &name, &authorship);
        assert!(read.is_err() || bytes == whole, "it was believed");
        format!("{:?}", read.map_err(|error| error.kind()).is_ok())
    });
}

#[test]
fn signals_of_any_bytes() {
    let seeds = [
        r#"{"name":"before \u00e9"}"#,
        r#"{"fingerprint":"00ff"}"#,
        r#"{"sampled":"0/16B3748","complete":true,"sequences":[{"oid":7,"schema":"s","name":"n","last_value":-1,"is_called":true,"increment":1,"owner":{"schema":"s","table":"t","column":"c"}}],"dropped":[1]}"#,
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec()).to_vec();
    throw("signal", seeds, |bytes| {
        let error = |error: serde_json::Error| format!("{:?}", error.classify());
        let outcomes = [
            serde_json::from_slice::<MarkSignal>(bytes).map(drop).map_err(error),
            serde_json::from_slice::<HeartbeatSignal>(bytes).map(drop).map_err(error),
            serde_json::from_slice::<SequenceSample>(bytes).map(drop).map_err(error),
        ];
        format!("{outcomes:?}")
    });
}
