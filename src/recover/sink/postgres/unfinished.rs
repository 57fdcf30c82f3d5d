//! The name of an unfinished database, and the comment by which it is known.

/// How the name of a database that is being built ends.
const UNFINISHED: &str = ".backwhen-unfinished";
/// How the comment on an unfinished database begins.
pub(super) const COMMENT: &str = "backwhen: an unfinished recovery, not a database to use";
/// How it goes on if the database was not made by the recovery; its own comment follows.
pub(super) const EXISTED: &str = "; it was there before\n";
/// The beginning of the comment on a database that is open, and not loaded yet.
pub(super) const OPENED: &str = "backwhen: not all tables of this database are loaded yet";
/// The most bytes of a name.
pub(super) const NAME_LIMIT: usize = 63;

/// The name of `name` while it is being built.
pub(super) fn temporary_name(name: &str) -> String {
    fitting("", name, UNFINISHED)
}

/// A name made of three parts. If it is too long for the server, the middle is cut and followed by a hash of the whole, so that
/// two long names do not meet.
pub(super) fn fitting(beginning: &str, name: &str, ending: &str) -> String {
    if beginning.len() + name.len() + ending.len() <= NAME_LIMIT {
        return format!("{beginning}{name}{ending}");
    }
    let hash = format!(".{:08x}", twox_hash::XxHash3_64::oneshot(name.as_bytes()) as u32);
    let mut end = NAME_LIMIT - beginning.len() - ending.len() - hash.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{beginning}{}{hash}{ending}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_fit_and_differ() {
        assert_eq!(temporary_name("shop"), "shop.backwhen-unfinished");
        let long = |last: &str| temporary_name(&format!("{}{last}", "ä".repeat(31)));
        assert!(long("x").len() <= NAME_LIMIT);
        assert!(long("x").ends_with(UNFINISHED));
        assert_ne!(long("x"), long("y"));
    }
}
