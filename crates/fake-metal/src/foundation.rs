//! As much of Foundation as the driver uses.
#![expect(unsafe_code, reason = "reads what callers point to")]
use crate::runtime::{Class, Id, Object, Sel, Strong, class, misuse};
use std::ffi::{CString, c_char};
use std::path::PathBuf;

/// `+alloc`: to be filled by an init.
pub(crate) extern "C" fn alloc(class: &'static Class, _: Sel) -> Id {
    Object::allocate(class)
}

class!("._OBJC_CLASS_NSString", STRING, c"NSString", ["alloc" => alloc], [
    "initWithBytes:length:encoding:" => string_init,
    "UTF8String" => string_utf8,
    "lengthOfBytesUsingEncoding:" => string_length,
]);

const UTF8: i32 = 4;

unsafe extern "C" fn string_init(
    this: &'static Object,
    _: Sel,
    bytes: *const u8,
    length: usize,
    encoding: i32,
) -> Id {
    if encoding != UTF8 {
        misuse!("a string in encoding {encoding}");
    }
    let bytes = match length {
        0 => &[][..],
        // SAFETY: the caller's promise.
        _ => unsafe { std::slice::from_raw_parts(bytes, length) },
    };
    this.fill(CString::new(bytes).unwrap_or_else(|_| misuse!("a string with a zero inside")));
    this
}

extern "C" fn string_utf8(this: &Object, _: Sel) -> *const c_char {
    this.body::<CString>().as_ptr()
}

extern "C" fn string_length(this: &Object, _: Sel, _encoding: i32) -> usize {
    this.body::<CString>().count_bytes()
}

pub(crate) fn string(text: &str) -> Strong {
    Strong::new(&STRING, CString::new(text.replace('\0', "?")).unwrap_or_default())
}

/// The text of an `NSString`.
pub(crate) fn text(string: &Object) -> String {
    string.body::<CString>().to_string_lossy().into_owned()
}

class!(ERROR, c"NSError", [], ["localizedDescription" => error_text, "code" => error_code]);

struct Error {
    code: isize,
    text: String,
}

pub(crate) fn error(code: isize, text: &str) -> Strong {
    Strong::new(&ERROR, Error { code, text: text.to_owned() })
}

extern "C" fn error_text(this: &Object, _: Sel) -> Id {
    string(&this.body::<Error>().text).autorelease()
}

extern "C" fn error_code(this: &Object, _: Sel) -> isize {
    this.body::<Error>().code
}

/// Where a method leaves its error, or nowhere.
pub(crate) type ErrorPlace = Option<&'static mut Id>;

/// Leaves the error and returns nil.
pub(crate) fn fail(place: ErrorPlace, text: &str) -> Id {
    if let Some(place) = place {
        *place = error(1, text).autorelease();
    }
    std::ptr::null()
}

class!("._OBJC_CLASS_NSArray", ARRAY, c"NSArray", ["alloc" => alloc], [
    "initWithObjects:count:" => array_init,
    "count" => array_count,
    "objectAtIndex:" => array_at,
]);

unsafe extern "C" fn array_init(
    this: &'static Object,
    _: Sel,
    objects: *const &'static Object,
    count: usize,
) -> Id {
    let objects = match count {
        0 => &[][..],
        // SAFETY: the caller's promise.
        _ => unsafe { std::slice::from_raw_parts(objects, count) },
    };
    this.fill(objects.iter().map(|object| Strong::of(object)).collect::<Vec<_>>());
    this
}

extern "C" fn array_count(this: &Object, _: Sel) -> usize {
    this.body::<Vec<Strong>>().len()
}

extern "C" fn array_at(this: &Object, _: Sel, index: usize) -> Id {
    let objects = this.body::<Vec<Strong>>();
    let found = objects.get(index).cloned();
    found.unwrap_or_else(|| misuse!("index {index} in an array of {}", objects.len())).autorelease()
}

class!("._OBJC_CLASS_NSURL", URL, c"NSURL", ["fileURLWithPath:" => url_of_path], []);

extern "C" fn url_of_path(_: &Class, _: Sel, path: &Object) -> Id {
    Strong::new(&URL, PathBuf::from(text(path))).autorelease()
}

class!("._OBJC_CLASS_NSProcessInfo", PROCESS_INFO, c"NSProcessInfo", ["processInfo" => process_info], [
    "operatingSystemVersion" => system_version,
]);

#[repr(C)]
struct SystemVersion {
    major: isize,
    minor: isize,
    patch: isize,
}

extern "C" fn process_info(_: &Class, _: Sel) -> Id {
    Strong::new(&PROCESS_INFO, ()).autorelease()
}

extern "C" fn system_version(_: &Object, _: Sel) -> SystemVersion {
    SystemVersion {
        major: isize::try_from(crate::settings::get().macos).unwrap_or(0),
        minor: 0,
        patch: 0,
    }
}
