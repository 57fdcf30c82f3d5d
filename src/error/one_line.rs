//! Makes foreign text, such as a server's message or a table's name, safe to print.

/// Whether a character could end a line, command a terminal, or change the order in which text is displayed.
pub fn is_hazard(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the text on one line, with a visible sign in place of each hazardous character.
pub fn one_line(text: &str) -> String {
    let visible = |c| match c {
        '\n' => '␊',
        '\t' => '␉',
        c if is_hazard(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_ends_the_line_or_commands_the_terminal() {
        assert_eq!(one_line("a\nb\tc\r\u{1b}[2J\u{9b}0m"), "a␊b␉c\u{fffd}\u{fffd}[2J\u{fffd}0m");
        assert_eq!(
            one_line("\u{202e}gnp.exe \u{2066}x\u{2069}\u{2028}"),
            "\u{fffd}gnp.exe \u{fffd}x\u{fffd}\u{fffd}"
        );
        let harmless = "naïve 表 👩\u{200d}🔬 \"quoted\" \\n";
        assert_eq!(one_line(harmless), harmless);
    }
}
