//! Requests to an object store. Each blocks until it is answered, and is tried again by the client for as long as its
//! limits allow.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, PutResult, UpdateVersion,
};

use crate::ambient;
use crate::error::{Error, Kind, Result, one_line};

/// The metadata that tells whose put an object is of. An answer may be lost on its way: the client then tries again,
/// and is told that the name is taken, by itself.
const PUT_ID: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("backwhenput"));

/// How often a request is sent again whose connection broke, beyond what the client does by itself.
const REPEATS: u64 = 5;

/// A request that has taken longer than this, with all that the client tried by itself, is not sent again.
const REPEAT_WITHIN: Duration = Duration::from_secs(10);

/// The longest pause before a request is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The stores take no longer keys.
const LONGEST_KEY: usize = 1024;

/// The addresses at which a machine in a cloud finds its own credentials. The crate asks there if the user names none.
const METADATA_SERVICES: [&str; 2] = ["169.254.169.254", "metadata.google.internal"];

/// The keys under one prefix of a bucket.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// Stands before each key; empty, or with a slash at the end.
    prefix: String,
    /// The URL of the prefix, for messages.
    url: String,
}

/// A stored object, as a listing tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub size: u64,
    pub put: DateTime<Utc>,
    /// Differs from that of other bytes under the same key; `None` if the store has not told it.
    pub version: Option<u128>,
}

impl From<ObjectMeta> for Stored {
    fn from(it: ObjectMeta) -> Stored {
        // Lists and answers to HEAD may differ in the quotes.
        let version = it.e_tag.as_deref().map(|tag| {
            let digest = blake3::hash(tag.trim_matches('"').as_bytes());
            digest.as_bytes()[..16].iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
        });
        Stored { size: it.size, put: it.last_modified, version }
    }
}

impl Bucket {
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: &str, url: &str) -> Bucket {
        let prefix = prefix.trim_matches('/');
        let parting = if prefix.is_empty() { "" } else { "/" };
        Bucket { store, prefix: format!("{prefix}{parting}"), url: url.trim_end_matches('/').to_owned() }
    }

    pub(super) fn locate(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    /// The path of a key; `None` if no store can hold such a key.
    fn path(&self, key: &str) -> Option<Path> {
        let path = Path::from_iter(format!("{}{key}", self.prefix).split('/'));
        (path.as_ref().len() <= LONGEST_KEY).then_some(path)
    }

    /// Tells an object's size and age; `None` if there is no such object.
    pub(super) fn head(&self, key: &str) -> Result<Option<Stored>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let found = self.ask("HEAD", key, move |store| {
            let path = path.clone();
            async move { store.head(&path).await }
        })?;
        Ok(found.map(Stored::from))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.get_version(key)?.map(|(bytes, _)| bytes))
    }

    /// Reads an object, with the version that [`Bucket::update`] replaces.
    pub(super) fn get_version(&self, key: &str) -> Result<Option<(Bytes, UpdateVersion)>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        self.ask("GET", key, move |store| {
            let path = path.clone();
            async move {
                let found = store.get(&path).await?;
                let version =
                    UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                Ok((found.bytes().await?, version))
            }
        })
    }

    /// Reads an object, with the time at which it was put by the store's clock.
    pub(super) fn get_dated(&self, key: &str) -> Result<Option<(Bytes, DateTime<Utc>)>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        self.ask("GET", key, move |store| {
            let path = path.clone();
            async move {
                let found = store.get(&path).await?;
                let put = found.meta.last_modified;
                Ok((found.bytes().await?, put))
            }
        })
    }

    pub(super) fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        self.ask("GET", key, move |store| {
            let (path, range) = (path.clone(), range.clone());
            async move { store.get_range(&path, range).await }
        })
    }

    /// Lists the keys below `folder`, which ends with a slash, without the folder itself.
    pub(super) fn list(&self, folder: &str) -> Result<Vec<(String, Stored)>> {
        let prefix = format!("{}{folder}", self.prefix);
        let path = Path::from(prefix.as_str());
        let listed = self.ask("LIST", folder, move |store| {
            let path = path.clone();
            async move { store.list(Some(&path)).try_collect::<Vec<_>>().await }
        });
        let keys = listed?.unwrap_or_default().into_iter().filter_map(|it| {
            let file = it.location.as_ref().strip_prefix(&prefix)?;
            Some((decoded(file)?, Stored::from(it)))
        });
        Ok(keys.collect())
    }

    /// Stores an object under a free key.
    ///
    /// # Errors
    /// `Internal` if the key is taken.
    pub(super) fn create(&self, key: &str, payload: PutPayload) -> Result<()> {
        let (id, attributes) = put_id()?;
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        match self.put(key, payload, options) {
            Err(error) if error.kind() == Kind::Internal && self.is_of_put(key, &id)? => Ok(()),
            put => put.map(drop),
        }
    }

    /// Replaces the version that was read of an object, and returns the new version; `None` if another one has taken its place.
    pub(super) fn update(
        &self,
        key: &str,
        payload: Vec<u8>,
        version: UpdateVersion,
    ) -> Result<Option<UpdateVersion>> {
        let (id, attributes) = put_id()?;
        let options = PutOptions { mode: PutMode::Update(version), attributes, ..PutOptions::default() };
        match self.put(key, payload.into(), options) {
            Err(error) if error.kind() == Kind::Internal => self.version_of_put(key, &id),
            put => put.map(|it| Some(UpdateVersion { e_tag: it.e_tag, version: it.version })),
        }
    }

    pub(super) fn overwrite(&self, key: &str, payload: Vec<u8>) -> Result<()> {
        self.put(key, payload.into(), PutOptions::default()).map(drop)
    }

    fn put(&self, key: &str, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let path =
            self.path(key).ok_or_else(|| Error::unavailable(format!("{} is too long", self.locate(key))))?;
        let put = self.ask("PUT", key, move |store| {
            let (path, payload, options) = (path.clone(), payload.clone(), options.clone());
            async move { store.put_opts(&path, payload, options).await }
        })?;
        put.ok_or_else(|| Error::refused(format!("there is no bucket for {}; make it first", self.url)))
    }

    fn is_of_put(&self, key: &str, id: &str) -> Result<bool> {
        Ok(self.version_of_put(key, id)?.is_some())
    }

    /// The version of an object that was put with this id; `None` if the object is of another put.
    fn version_of_put(&self, key: &str, id: &str) -> Result<Option<UpdateVersion>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let found = self.ask("HEAD", key, move |store| {
            let path = path.clone();
            async move { store.get_opts(&path, GetOptions::new().with_head(true)).await }
        })?;
        let of_put = found.filter(|it| it.attributes.get(&PUT_ID).is_some_and(|found| found.as_ref() == id));
        Ok(of_put.map(|it| UpdateVersion { e_tag: it.meta.e_tag, version: it.meta.version }))
    }

    /// Removes an object; one that is gone already is no error.
    pub(super) fn delete(&self, key: &str) -> Result<()> {
        let Some(path) = self.path(key) else { return Ok(()) };
        let deleted = self.ask("DELETE", key, move |store| {
            let path = path.clone();
            async move { store.delete(&path).await }
        });
        deleted.map(drop)
    }

    /// Removes many objects, a thousand with one request where the store can do that. Objects that are gone already are no
    /// error.
    pub(super) fn delete_many(&self, keys: Vec<String>) -> Result<()> {
        let paths: Vec<_> = keys.iter().filter_map(|key| self.path(key)).collect();
        let first = keys.first().map_or("", String::as_str);
        let removing = self.ask("DELETE", first, move |store| {
            let paths = futures_util::stream::iter(paths.clone()).map(Ok).boxed();
            async move {
                let is_gone =
                    |error: &object_store::Error| matches!(error, object_store::Error::NotFound { .. });
                let removed = store.delete_stream(paths);
                removed
                    .filter(|removed| std::future::ready(!removed.as_ref().is_err_and(is_gone)))
                    .try_for_each(|_| std::future::ready(Ok(())))
                    .await
            }
        });
        removing.map(drop)
    }

    /// Copies an object within the store; false if it is not there.
    pub(super) fn copy(&self, from: &str, to: &str) -> Result<bool> {
        let (Some(source), Some(target)) = (self.path(from), self.path(to)) else { return Ok(false) };
        let copied = self.ask("COPY", from, move |store| {
            let (source, target) = (source.clone(), target.clone());
            async move { store.copy(&source, &target).await }
        })?;
        Ok(copied.is_some())
    }

    /// Sends a request; `None` if the object is not there. If the connection broke, the request may have been carried out,
    /// and is sent again: so each request must do no harm the second time.
    fn ask<T: Send + 'static, F: Future<Output = object_store::Result<T>> + Send + 'static>(
        &self,
        verb: &str,
        key: &str,
        request: impl Fn(Arc<dyn ObjectStore>) -> F,
    ) -> Result<Option<T>> {
        let begun = ambient::instant();
        for repeat in 1.. {
            tracing::trace!("request {verb} {key}");
            match ambient::answer(request(Arc::clone(&self.store)))? {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) if repeat <= REPEATS && begun.elapsed() < REPEAT_WITHIN && is_cut_off(&error) => {
                    tracing::debug!("{verb} {key} is sent again: {}", one_line(&error.to_string()));
                    let jitter = u64::from(u8::from_le_bytes(ambient::random()?));
                    std::thread::sleep(longest_pause().min(Duration::from_millis((50 + jitter) * repeat)));
                }
                answer => return answer.map(Some).map_err(|error| self.failed(verb, key, error)),
            }
        }
        unreachable!("the last repeat returns")
    }

    fn failed(&self, verb: &str, key: &str, error: object_store::Error) -> Error {
        use object_store::Error as Fault;
        let place = self.locate(key);
        // The text of such an error holds those of its causes.
        let cause = one_line(&error.to_string());
        match error {
            Fault::AlreadyExists { .. } | Fault::Precondition { .. } => {
                Error::internal(format!("{place} exists already; objects are written once"))
            }
            Fault::PermissionDenied { .. } | Fault::Unauthenticated { .. } => {
                refused(verb, place, credentials(&self.url)).caused_by(cause)
            }
            _ if METADATA_SERVICES.iter().any(|it| cause.contains(it)) => Error::usage(format!(
                "no credentials are named for {}, and this machine has none of its own; set {}, or see docs/stores.md",
                self.url,
                credentials(&self.url)
            ))
            .caused_by(cause),
            _ => Error::unavailable(format!(
                "{verb} of {place} failed, and was tried again for some seconds; start the same command again once the \
                 object store answers"
            ))
            .caused_by(cause),
        }
    }
}

/// Draws the id of a put, and returns it with the metadata that bears it.
fn put_id() -> Result<(String, Attributes)> {
    let id = format!("{:032x}", u128::from_be_bytes(ambient::random()?));
    let attributes = Attributes::from_iter([(PUT_ID, AttributeValue::from(id.clone()))]);
    Ok((id, attributes))
}

/// The longest pause between two tries of a request.
pub(super) fn longest_pause() -> Duration {
    ambient::test_number("BACKWHEN_TEST_PAUSES").map_or(LONGEST_PAUSE, Duration::from_millis)
}

/// Whether the connection broke before the whole answer was there, in a way after which the client does not repeat a request
/// by itself: the answer to a conditional put, or the rest of a list.
fn is_cut_off(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(it) = cause {
        if let Some(fault) = it.downcast_ref::<HttpError>() {
            use HttpErrorKind::{Decode, Interrupted, Unknown};
            return matches!(fault.kind(), Decode | Interrupted | Unknown);
        }
        cause = it.source();
    }
    false
}

fn refused(verb: &str, place: impl Display, credentials: &str) -> Error {
    Error::refused(format!(
        "the object store refuses {verb} of {place}; give these credentials the right, or name others ({credentials})"
    ))
}

/// The variables that name the credentials for a URL.
fn credentials(url: &str) -> &'static str {
    match url.split_once("://") {
        Some(("gs", _)) => "GOOGLE_APPLICATION_CREDENTIALS",
        Some(("az", _)) => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        _ => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    }
}

/// The text of a key whose odd characters a [`Path`] has written as `%41`; `None` if that is no text.
fn decoded(key: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(after.get(..2)?, 16).ok()?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}
