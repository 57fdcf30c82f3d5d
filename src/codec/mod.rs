pub mod copy_text;
