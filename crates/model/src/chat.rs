//! Chat templates: Jinja, as Hugging Face models carry them.
