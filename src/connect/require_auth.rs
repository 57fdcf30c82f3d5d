//! `require_auth`: by which methods a server may ask us to log in.

use crate::error::{Error, Result};

/// How a server may have us prove who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The server lets us in without asking.
    None,
    /// The password itself.
    Password,
    Md5,
    Scram,
    Gss,
    Sspi,
    OAuth,
}

/// Each method with its word, and with what a message calls it.
const METHODS: &[(&str, Method, &str)] = &[
    ("none", Method::None, "no proof at all"),
    ("password", Method::Password, "the password in clear text"),
    ("md5", Method::Md5, "an MD5 digest of the password"),
    ("scram-sha-256", Method::Scram, "SCRAM-SHA-256"),
    ("gss", Method::Gss, "GSSAPI"),
    ("sspi", Method::Sspi, "SSPI"),
    ("oauth", Method::OAuth, "OAuth"),
];

/// The methods that are allowed; all of them, unless the connection string says otherwise.
#[derive(Clone, Debug)]
pub struct RequireAuth {
    text: String,
    allowed: Vec<Method>,
}

impl RequireAuth {
    /// Reads a list as libpq does: methods that are allowed, or with a `!` before each those that are not.
    ///
    /// # Errors
    /// Usage, if a method is unknown, named twice, or only some have a `!`.
    pub fn parse(text: Option<&str>) -> Result<RequireAuth> {
        let all = || METHODS.iter().map(|(_, method, _)| *method);
        let Some(text) = text else {
            return Ok(RequireAuth { text: String::new(), allowed: all().collect() });
        };
        let forbids = text.starts_with('!');
        let mut named = Vec::new();
        for item in text.split(',') {
            let word = item.strip_prefix('!');
            if word.is_some() != forbids {
                return Err(wrong(text, "put a ! before each method or before none"));
            }
            let word = word.unwrap_or(item);
            let method = METHODS.iter().find(|(known, _, _)| *known == word).map(|(_, method, _)| *method);
            let method = method.ok_or_else(|| wrong(text, "one of its methods is not known"))?;
            if named.contains(&method) {
                return Err(wrong(text, "a method is named twice"));
            }
            named.push(method);
        }
        let allowed = all().filter(|method| named.contains(method) != forbids).collect();
        Ok(RequireAuth { text: text.to_owned(), allowed })
    }

    /// Whether the server may ask for this.
    ///
    /// # Errors
    /// What to tell the user, if it may not.
    pub fn allow(&self, method: Method) -> Result<(), String> {
        if self.allowed.contains(&method) {
            return Ok(());
        }
        let asked = METHODS.iter().find(|(_, known, _)| *known == method).map_or("", |(_, _, name)| name);
        Err(format!(
            "the server wants {asked} for a login, which require_auth={} forbids; see that it is the right server, \
             and look at its pg_hba.conf",
            self.text
        ))
    }
}

fn wrong(text: &str, why: &str) -> Error {
    let words: Vec<_> = METHODS.iter().map(|(word, _, _)| *word).collect();
    Error::usage(format!("require_auth={text} cannot be read: {why}; the methods are {}", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> Vec<Method> {
        RequireAuth::parse(Some(text)).unwrap().allowed
    }

    #[test]
    fn reads_a_list_of_what_may_be_and_one_of_what_may_not() {
        assert_eq!(RequireAuth::parse(None).unwrap().allowed.len(), METHODS.len());
        assert_eq!(allowed("scram-sha-256"), [Method::Scram]);
        assert_eq!(allowed("none,md5"), [Method::None, Method::Md5]);
        assert_eq!(allowed("!password,!md5,!gss,!sspi,!oauth"), [Method::None, Method::Scram]);
        assert!(!allowed("!none").contains(&Method::None));
    }

    #[test]
    fn a_list_that_libpq_would_not_take_is_refused() {
        for text in ["scram", "md5,!password", "!md5,password", "md5,md5", "md5, password", "md5,", "!"] {
            assert_eq!(
                RequireAuth::parse(Some(text)).unwrap_err().kind(),
                crate::error::Kind::Usage,
                "{text}"
            );
        }
    }
}
