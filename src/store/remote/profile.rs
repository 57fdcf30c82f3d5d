//! Reads profiles of the AWS command line: `~/.aws/credentials` and `~/.aws/config`.
//!
//! Only keys that stand in these files, the region and the endpoint are read. A profile that gets its keys in another way,
//! such as by a role or a program, is refused by name: to pass over it could mean to act as somebody else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store::files;

/// The profile that is used if none is named.
const DEFAULT: &str = "default";

/// Settings by which a profile gets its keys in a way that is not supported.
const OTHER_WAYS: [&str; 6] =
    ["role_arn", "credential_process", "credential_source", "sso_session", "sso_start_url", "login_session"];

/// The settings of a profile. One that it does not have is `None`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub keys: Option<Keys>,
    pub region: Option<String>,
    pub endpoint: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub id: String,
    pub secret: String,
    /// The session token, which keys that expire have.
    pub token: Option<String>,
}

type Sections = BTreeMap<String, BTreeMap<String, String>>;

impl Profile {
    /// Reads the profile that `AWS_PROFILE` names, or the default one. `variable` looks up a variable of the environment.
    ///
    /// # Errors
    /// `Usage` if the named profile does not exist, or gets its keys in a way that is not supported while no keys stand in
    /// the environment.
    pub(super) fn chosen(variable: impl Fn(&str) -> Option<String>) -> Result<Profile> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = variable("HOME").map(|home| Path::new(&home).join(".aws"));
        let file = |named: &str, usual: &str| match variable(named) {
            Some(path) => Some(PathBuf::from(path)),
            None => home.as_ref().map(|home| home.join(usual)),
        };
        let text = |path: Option<PathBuf>| match path {
            Some(path) if path.exists() => files::read_text(&path),
            _ => Ok(String::new()),
        };
        let credentials = text(file("AWS_SHARED_CREDENTIALS_FILE", "credentials"))?;
        let config = text(file("AWS_CONFIG_FILE", "config"))?;
        let wants_keys = variable("AWS_ACCESS_KEY_ID").is_none();
        Profile::find(variable("AWS_PROFILE").as_deref(), &credentials, &config, wants_keys)
    }

    fn find(named: Option<&str>, credentials: &str, config: &str, wants_keys: bool) -> Result<Profile> {
        let name = named.unwrap_or(DEFAULT);
        let in_config =
            |section: &str| if section == DEFAULT { Some(section.to_owned()) } else { profile_of(section) };
        let credentials = sections(credentials, |section| Some(section.to_owned())).remove(name);
        let config = sections(config, in_config).remove(name);
        if let Some(named) = named
            && credentials.is_none()
            && config.is_none()
        {
            return Err(Error::usage(format!(
                "AWS_PROFILE names {named}, and neither ~/.aws/credentials nor ~/.aws/config has this profile; correct it, or \
                 see: aws configure list-profiles"
            )));
        }
        let (credentials, config) = (credentials.unwrap_or_default(), config.unwrap_or_default());
        let setting = |key: &str| credentials.get(key).or_else(|| config.get(key)).cloned();
        let keys = setting("aws_access_key_id").zip(setting("aws_secret_access_key"));
        let keys = keys.map(|(id, secret)| Keys { id, secret, token: setting("aws_session_token") });
        let other = OTHER_WAYS.iter().find(|way| setting(way).is_some());
        if let (true, None, Some(way)) = (wants_keys, &keys, other) {
            return Err(Error::usage(format!(
                "the AWS profile {name} gets its keys by {way}, which backwhen cannot follow; put its keys into the \
                 environment with: eval \"$(aws configure export-credentials --profile {name} --format env)\""
            )));
        }
        Ok(Profile { keys, region: setting("region"), endpoint: setting("endpoint_url") })
    }
}

/// The profile that a section of `~/.aws/config` describes; sections of other things have other first words.
fn profile_of(section: &str) -> Option<String> {
    let (word, name) = section.split_once(char::is_whitespace)?;
    (word == "profile").then(|| name.trim().trim_matches('"').to_owned())
}

/// Reads the sections of a file whose names `wanted` translates. Indented lines belong to the setting before them, and are
/// passed over.
fn sections(text: &str, wanted: impl Fn(&str) -> Option<String>) -> Sections {
    let mut sections = Sections::new();
    let mut current = None;
    for line in text.lines() {
        let is_nested = line.starts_with(char::is_whitespace);
        let line = uncommented(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name)
        {
            current = wanted(name.trim());
            // A section without settings is there, too.
            if let Some(name) = &current {
                sections.entry(name.clone()).or_default();
            }
        } else if let (false, Some((key, value)), Some(section)) = (is_nested, line.split_once('='), &current)
        {
            let settings = sections.entry(section.clone()).or_default();
            settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    sections.values_mut().for_each(|settings| settings.retain(|_, value| !value.is_empty()));
    sections
}

/// The line without its comment, which begins the line or follows a space.
fn uncommented(line: &str) -> &str {
    let line = line.trim();
    let begins = |at: &usize| line[..*at].is_empty() || line[..*at].ends_with(char::is_whitespace);
    let comment = line.match_indices(['#', ';']).map(|(at, _)| at).find(begins);
    line[..comment.unwrap_or(line.len())].trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const CREDENTIALS: &str = "
# the usual one
[default]
aws_access_key_id = AKIDEFAULT
aws_secret_access_key = sec/ret+=with#odd;signs   # and a comment
[ backup ]
AWS_ACCESS_KEY_ID=AKIBACKUP
aws_secret_access_key=other
aws_session_token = to==ken
[half]
aws_access_key_id = AKIHALF
aws_secret_access_key =
";

    const CONFIG: &str = "
[default]
region = eu-central-1
s3 =
    region = never
    endpoint_url = http://never
[profile backup]
region = us-west-2 ; of the copy
endpoint_url = http://127.0.0.1:9000
[profile \"with role\"]
role_arn = arn:aws:iam::1:role/x
source_profile = default
[sso-session backup]
region = never
[backup]
region = never
";

    fn found(named: Option<&str>) -> Profile {
        Profile::find(named, CREDENTIALS, CONFIG, true).unwrap()
    }

    #[test]
    fn a_profile_is_read_from_both_files() {
        let default = found(None);
        let keys = default.keys.unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.as_str()), ("AKIDEFAULT", "sec/ret+=with#odd;signs"));
        assert_eq!((default.region.as_deref(), default.endpoint), (Some("eu-central-1"), None));
        let backup = found(Some("backup"));
        let keys = backup.keys.unwrap();
        assert_eq!((keys.id.as_str(), keys.token.as_deref()), ("AKIBACKUP", Some("to==ken")));
        assert_eq!(backup.region.as_deref(), Some("us-west-2"));
        assert_eq!(backup.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert!(found(Some("half")).keys.is_none());
        assert!(Profile::find(None, "", "", true).unwrap() == Profile::default(), "nobody has to have one");
    }

    #[test]
    fn a_profile_that_is_missing_or_gets_its_keys_otherwise_is_refused_by_name() {
        let missing = Profile::find(Some("nobody"), CREDENTIALS, CONFIG, true).err().unwrap();
        assert!(missing.kind() == Kind::Usage && missing.to_string().contains("nobody"), "{missing}");
        let role = Profile::find(Some("with role"), CREDENTIALS, CONFIG, true).err().unwrap();
        assert!(role.kind() == Kind::Usage && role.to_string().contains("role_arn"), "{role}");
        // Keys in the environment need none of the profile.
        assert!(Profile::find(Some("with role"), CREDENTIALS, CONFIG, false).unwrap().keys.is_none());
    }

    #[test]
    fn files_are_found_where_the_variables_say_or_at_home() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/credentials"), CREDENTIALS).unwrap();
        std::fs::write(home.path().join("elsewhere"), CONFIG).unwrap();
        let path = |name: &str| Some(home.path().join(name).display().to_string());
        let chosen = |profile: Option<&str>, config: Option<&str>| {
            let variable = |name: &str| match name {
                "HOME" => path(""),
                "AWS_PROFILE" => profile.map(str::to_owned),
                "AWS_CONFIG_FILE" => config.and_then(path),
                _ => None,
            };
            Profile::chosen(variable).unwrap()
        };
        assert_eq!(chosen(None, None).keys.unwrap().id, "AKIDEFAULT");
        assert_eq!(chosen(None, None).region, None);
        assert_eq!(chosen(Some(""), Some("elsewhere")).region.unwrap(), "eu-central-1");
        assert_eq!(chosen(Some("backup"), Some("elsewhere")).region.unwrap(), "us-west-2");
        assert!(Profile::chosen(|_| None).unwrap() == Profile::default());
    }

    #[test]
    fn files_of_any_bytes() {
        let seeds = [CREDENTIALS, CONFIG].map(|text| text.as_bytes().to_vec()).to_vec();
        crate::hostile::throw("aws-profiles", seeds, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return "no text".into() };
            let found = Profile::find(None, text, text, true);
            format!("{:?}", found.map(|it| it.keys.is_some()).map_err(|error| error.kind()))
        });
    }
}
