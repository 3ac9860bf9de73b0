//! The kinds of findings that this crate makes.

crate::ids! {
    UNREADABLE "unreadable-recipe" "A recipe, or a file that it extends, cannot be read."
    CIRCULAR_EXTENDS "circular-extends" "Recipes extend each other in a circle."
    TOO_MANY_FILES "too-many-files" "A recipe extends more files, or a longer chain of files, than is allowed."
    SYNTAX "syntax" "A file is not valid TOML 1.0, or holds a value that no recipe has a use for, such as a date."
    BAD_EXTENDS "bad-extends" "`extends`, `remove` or `plugins` is not an array of strings."
    NOTHING_TO_REMOVE "nothing-to-remove" "`remove` or `--unset` names a value that does not exist."
    BAD_OVERRIDE "bad-override" "`--set` is not PATH=VALUE, or cannot be applied to the recipe."
    DROPPED_KEYS "dropped-keys" "A table names another component than the recipe it extends, so the first component's own keys were dropped."
    BAD_REFERENCE "bad-reference" "A `${…}` is not a valid reference, or stands where none may stand."
    DANGLING_REFERENCE "dangling-reference" "A reference leads to no value that could stand in its place."
    CIRCULAR_REFERENCE "circular-reference" "References lead to each other in a circle, or over too many others."
    REFERENCE_TOO_LARGE "reference-too-large" "References make more text than is allowed."
    ENVIRONMENT "environment" "A reference asks for an environment variable that is not set or cannot be used."
    UNKNOWN_KEY "unknown-key" "A table has a key that neither the engine nor its component knows."
    MISSING_KEY "missing-key" "A table lacks a key that has no default."
    WRONG_TYPE "wrong-type" "A value is of another type than its key takes."
    OUT_OF_RANGE "out-of-range" "A number lies outside the range of its key."
    WRONG_LENGTH "wrong-length" "A text or an array is shorter or longer than its key allows."
    UNKNOWN_CHOICE "unknown-choice" "A value is not among the names that its key knows."
    INVALID_VALUE "invalid-value" "A value has the right type but cannot be used."
}
