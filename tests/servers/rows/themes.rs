//! A test for each theme on the newest server, and all of them together on every version.

use crate::rows::story::{Theme, tell};
use crate::support::{Server, for_each_version};

macro_rules! themes {
    ($($name:ident)*) => {
        const THEMES: &[Theme] = &[
            $(Theme { name: stringify!($name) }),*
        ];
        $(
            #[test]
            fn $name() {
                let theme = THEMES.iter().find(|theme| theme.name == stringify!($name));
                tell(&Server::shared(None), &[theme.expect("it is in the list")]);
            }
        )*
    };
}

themes! {
    out_of_line_values
    keys
    equal_values_of_other_bytes
    rows_without_a_key
    transactions
    cascades_and_triggers
    computed_columns
    partitions_and_heirs
    names
    strings
    types
}

#[test]
fn all_themes_on_every_version() {
    let all: Vec<_> = THEMES.iter().collect();
    for_each_version(|server| tell(server, &all));
}
