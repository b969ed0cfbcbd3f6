#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::collections::HashMap;
use std::path::Path;

use oomtrace_common::{ABSENT, Layout};
use proptest::prelude::*;

use super::*;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// Makes BTF, valid or not.
struct Builder {
    types: Vec<u32>,
    strings: Vec<u8>,
    count: u32,
}

impl Builder {
    fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            count: 0,
        }
    }

    fn text(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.bytes().chain([0]));
        at
    }

    fn raw(&mut self, name: u32, info: u32, word: u32, body: &[u32]) -> u32 {
        self.types.extend([name, info, word]);
        self.types.extend(body);
        self.count += 1;
        self.count
    }

    fn add(&mut self, name: &str, kind: u32, word: u32) -> u32 {
        let name = self.text(name);
        self.raw(name, kind << 24, word, &[])
    }

    fn int(&mut self, name: &str, size: u32) -> u32 {
        let name = self.text(name);
        self.raw(name, INT << 24, size, &[size * 8])
    }

    fn array(&mut self, element: u32, len: u32) -> u32 {
        self.raw(0, ARRAY << 24, 0, &[element, element, len])
    }

    /// A struct or union; members are name, type and raw place.
    fn members(&mut self, name: &str, kind: u32, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let name = self.text(name);
        let body = members
            .iter()
            .flat_map(|&(name, ty, place)| [self.text(name), ty, place])
            .collect::<Vec<_>>();
        let info = kind << 24 | members.len() as u32;
        self.raw(name, info, size, &body)
    }

    fn strukt(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.members(name, STRUCT, size, members)
    }

    fn enumeration(&mut self, name: &str, signed: u32, values: &[(&str, u32)]) -> u32 {
        let name = self.text(name);
        let body = values
            .iter()
            .flat_map(|&(name, value)| [self.text(name), value])
            .collect::<Vec<_>>();
        let info = signed << 31 | ENUM << 24 | values.len() as u32;
        self.raw(name, info, 4, &body)
    }

    fn prototype(&mut self, parameters: &[u32]) -> u32 {
        let body = parameters
            .iter()
            .flat_map(|&ty| [0, ty])
            .collect::<Vec<_>>();
        self.raw(0, FUNC_PROTO << 24 | parameters.len() as u32, 0, &body)
    }

    fn bytes(&self) -> Vec<u8> {
        self.with_header(&[], &[])
    }

    /// The file, with more header words and, after the strings, a layout section.
    fn with_header(&self, more: &[u32], layouts: &[u8]) -> Vec<u8> {
        let types = self.types.len() as u32 * 4;
        let strings = self.strings.len() as u32;
        let header = 24 + more.len() as u32 * 4;
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let words = [header, 0, types, types, strings];
        for word in words.iter().chain(more).chain(&self.types) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.strings);
        bytes.extend(layouts);
        bytes
    }
}

fn put(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
}

fn message<T>(result: Result<T, BtfError>) -> String {
    result.err().unwrap().to_string()
}

fn parse_error(bytes: &[u8]) -> String {
    message(Btf::parse(bytes, NAMES))
}

/// Where a member is, as (offset, size).
fn place(btf: &Btf<'_>, name: &str, path: &str) -> Result<(u32, u32), BtfError> {
    btf.member(name, path)
        .map(|member| (member.offset, member.size))
}

mod format {
    use super::*;

    /// A header that lies about itself is refused with the reason, field by field.
    #[test]
    fn bad_headers() {
        let mut builder = Builder::new();
        builder.int("int", 4);
        let good = builder.bytes();
        assert!(Btf::parse(&good, NAMES).is_ok());
        let types = 16;
        let strings = builder.strings.len() as u32;
        for (at, word, expected) in [
            (0, 0, "magic number"),
            (4, 23, "header is cut short"),
            (4, 0xffff_ffff, "header is cut short"),
            (8, 0xffff_fffc, "outside the file"),
            (12, types + strings + 1, "outside the file"),
            (12, types - 1, "type is cut short"),
            (12, types + 1, "sections overlap"),
            (16, 4, "sections overlap"),
            (16, types + 1, "outside the file"),
            (20, 0, "not NUL-terminated"),
            (20, strings - 1, "not NUL-terminated"),
            (20, 0xffff_ffff, "outside the file"),
        ] {
            let mut bad = good.clone();
            put(&mut bad, at, word);
            let found = parse_error(&bad);
            assert!(found.contains(expected), "{at} = {word}: {found}");
        }
        let mut bad = good.clone();
        bad[2] = 2;
        assert!(parse_error(&bad).contains("version"));
        let mut bad = good.clone();
        bad[40] = b'x';
        assert!(parse_error(&bad).contains("not NUL-terminated"));
    }

    /// The other byte order is told apart from bytes that are no BTF at all.
    #[test]
    fn foreign_byte_order() {
        let mut bytes = Builder::new().bytes();
        bytes.swap(0, 1);
        assert!(matches!(
            Btf::parse(&bytes, NAMES),
            Err(BtfError::ForeignEndian)
        ));
    }

    /// Sections are counted from the end of the header, however long it is.
    #[test]
    fn longer_header() {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        builder.strukt("s", 4, &[("m", int, 0)]);
        let bytes = builder.with_header(&[0, 0, 77, 78, 79], &[]);
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        assert_eq!(place(&btf, "s", "m").unwrap(), (0, 4));
    }

    /// BTF without types is valid and knows nothing.
    #[test]
    fn no_types() {
        let bytes = Builder::new().bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        assert_eq!(message(btf.member("cred", "uid")), "BTF has no struct cred");
        assert_eq!(
            message(btf.struct_size("elsewhere")),
            "BTF has no struct elsewhere"
        );
        assert_eq!(btf.func_id("oom_badness").unwrap(), None);
    }

    /// More than 65535 members: the count has 24 bits in newer kernels.
    #[test]
    fn wide_member_count() {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        let values = vec![0; 2 * 0x1_0003];
        builder.raw(0, ENUM << 24 | 0x1_0003, 4, &values);
        builder.strukt("s", 8, &[("m", int, 32)]);
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        assert_eq!(place(&btf, "s", "m").unwrap(), (4, 4));
    }

    /// A member count beyond the section is refused.
    #[test]
    fn huge_member_count() {
        let mut builder = Builder::new();
        builder.raw(0, STRUCT << 24 | 0xff_ffff, 4, &[]);
        assert!(parse_error(&builder.bytes()).contains("cut short"));
    }

    /// An unknown kind is named, unless the layout section tells its length; known kinds never
    /// take their length from there.
    #[test]
    fn unknown_kinds() {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        builder.raw(0, 100 << 24 | 3, 0, &[9; 7]);
        builder.strukt("s", 4, &[("m", int, 0)]);
        assert_eq!(
            parse_error(&builder.bytes()),
            "BTF type 2 is of unknown kind 100, and nothing tells how to skip it"
        );

        let at = builder.types.len() as u32 * 4 + builder.strings.len() as u32;
        let mut layouts = vec![0; 101 * 4];
        layouts[400] = 4;
        layouts[401] = 8;
        let bytes = builder.with_header(&[at, layouts.len() as u32], &layouts);
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        assert_eq!(place(&btf, "s", "m").unwrap(), (0, 4));

        // One kind too few, and a length that is not made of words.
        let bytes = builder.with_header(&[at, 400], &layouts);
        assert!(parse_error(&bytes).contains("unknown kind 100"));
        layouts[400] = 6;
        let bytes = builder.with_header(&[at, layouts.len() as u32], &layouts);
        assert!(parse_error(&bytes).contains("unknown kind 100"));
        let bytes = builder.with_header(&[0, layouts.len() as u32], &layouts);
        assert!(parse_error(&bytes).contains("overlap"));
    }

    /// Kind 0 is no type.
    #[test]
    fn void_in_section() {
        let mut builder = Builder::new();
        builder.raw(0, 0, 0, &[]);
        assert!(parse_error(&builder.bytes()).contains("unknown kind 0"));
    }

    /// Names beyond the string section are refused, of types at once and of members when looked at.
    #[test]
    fn names_out_of_range() {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        let name = builder.text("s");
        builder.raw(name, STRUCT << 24 | 1, 4, &[0xffff, int, 0]);
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        assert!(message(btf.member("s", "m")).contains("outside the string section"));
        let end = builder.strings.len() as u32;
        builder.raw(end, STRUCT << 24, 4, &[]);
        assert!(parse_error(&builder.bytes()).contains("outside the string section"));
    }

    /// Every type is found by its id, also far from where the reader keeps marks.
    #[test]
    fn ids() {
        let mut builder = Builder::new();
        let ids: Vec<u32> = (1..200).map(|size| builder.int("", size)).collect();
        for &id in &ids {
            builder.strukt(&format!("s{id}"), id, &[("m", id, 0)]);
        }
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, &["s77"]).unwrap();
        for id in ids {
            let name = format!("s{id}");
            assert_eq!(place(&btf, &name, "m").unwrap(), (0, id));
            assert_eq!(btf.struct_size(&name).unwrap(), id);
        }
    }

    /// A member of a type that does not exist is refused.
    #[test]
    fn type_id_out_of_range() {
        let mut builder = Builder::new();
        builder.strukt("s", 4, &[("m", 3, 0)]);
        builder.strukt("t", 4, &[("m", u32::MAX, 0)]);
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        for name in ["s", "t"] {
            assert!(message(btf.member(name, "m")).contains("type id is out of range"));
        }
    }
}

mod queries {
    use super::*;

    /// Members of anonymous structs and unions count from the outer struct, at any depth.
    #[test]
    fn anonymous_nesting() {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        let inner = builder.strukt("", 8, &[("a", int, 0), ("b", int, 32)]);
        let union = builder.members("", UNION, 8, &[("u", int, 0), ("", inner, 0)]);
        let outer = builder.strukt("", 16, &[("x", int, 0), ("", union, 64)]);
        builder.strukt(
            "s",
            24,
            &[("first", int, 0), ("", int, 32), ("", outer, 64)],
        );
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        for (member, offset) in [("first", 0), ("x", 8), ("u", 16), ("a", 16), ("b", 20)] {
            assert_eq!(place(&btf, "s", member).unwrap(), (offset, 4), "{member}");
        }
        assert_eq!(
            message(btf.member("s", "c")),
            "BTF has no member \"c\" in struct s"
        );
    }

    /// Paths lead through embedded structs, also behind typedefs, qualifiers and type tags, and
    /// not through pointers.
    #[test]
    fn paths() {
        let mut builder = Builder::new();
        let long = builder.int("long", 8);
        let pair = builder.strukt("pair", 16, &[("a", long, 0), ("b", long, 64)]);
        let mut ty = pair;
        for kind in [TYPEDEF, CONST, VOLATILE, TYPE_TAG] {
            ty = builder.add("t", kind, ty);
        }
        let pointer = builder.add("", PTR, pair);
        builder.strukt("s", 32, &[("p", pointer, 0), ("m", ty, 64)]);
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        assert_eq!(place(&btf, "s", "m").unwrap(), (8, 16));
        assert_eq!(place(&btf, "s", "m.b").unwrap(), (16, 8));
        assert_eq!(place(&btf, "s", "p").unwrap(), (0, 8));
        for path in ["p.a", "m.b.c", "m.", ".a", ""] {
            assert_eq!(
                message(btf.member("s", path)),
                format!("BTF has no member \"{path}\" in struct s")
            );
        }
    }

    /// With kind_flag the low 24 bits are the place; a bit-field is an error, its neighbours not.
    #[test]
    fn bit_fields() {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        let name = builder.text("s");
        let [a, b, c] = ["a", "b", "c"].map(|name| builder.text(name));
        let body = [a, int, 0, b, int, 3 << 24 | 32, c, int, 64];
        builder.raw(name, 1 << 31 | STRUCT << 24 | 3, 12, &body);
        builder.strukt("old", 12, &[("odd", int, 3), ("far", int, 1 << 24)]);
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        assert_eq!(place(&btf, "s", "c").unwrap(), (8, 4));
        assert_eq!(place(&btf, "old", "far").unwrap(), (1 << 21, 4));
        assert_eq!(
            message(btf.member("s", "b")),
            "member \"b\" of struct s is a bit-field"
        );
        assert!(message(btf.member("old", "odd")).contains("bit-field"));
    }

    /// Several definitions must agree about what is asked, and only about that; a forward
    /// declaration is none.
    #[test]
    fn duplicates() {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        builder.add("s", FWD, 0);
        builder.strukt("s", 8, &[("a", int, 0), ("b", int, 32), ("c", int, 64)]);
        builder.strukt("s", 12, &[("a", int, 0), ("b", int, 64)]);
        for names in [&["s"][..], &[]] {
            let bytes = builder.bytes();
            let btf = Btf::parse(&bytes, names).unwrap();
            assert_eq!(place(&btf, "s", "a").unwrap(), (0, 4));
            for member in ["b", "c"] {
                assert_eq!(
                    message(btf.member("s", member)),
                    format!(
                        "BTF is ambiguous: the definitions of struct s disagree about member \"{member}\""
                    )
                );
            }
            assert!(matches!(
                btf.member("s", "d"),
                Err(BtfError::NoMember { .. })
            ));
            assert!(message(btf.struct_size("s")).contains("its size"));
        }
    }

    /// Arrays tell their element and length; nested ones multiply, and cannot overflow.
    #[test]
    fn arrays() {
        let mut builder = Builder::new();
        let long = builder.int("long", 8);
        let row = builder.array(long, 3);
        let table = builder.array(row, 5);
        let big = builder.array(table, 0x7fff_ffff);
        let looped = builder.array(builder.count + 1, 1);
        builder.strukt(
            "s",
            8,
            &[
                ("t", table, 0),
                ("l", long, 0),
                ("b", big, 0),
                ("o", looped, 0),
            ],
        );
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        let table = btf.member("s", "t").unwrap();
        assert_eq!(table.size, 120);
        assert_eq!(
            btf.array(table).unwrap().unwrap(),
            Array {
                element: "array".to_owned(),
                element_size: 24,
                len: 5,
            }
        );
        assert!(btf.array(btf.member("s", "l").unwrap()).unwrap().is_none());
        assert!(message(btf.member("s", "b")).contains("larger than 4 GiB"));
        assert!(message(btf.member("s", "o")).contains("without end"));
    }

    /// Enumerators have the value the kernel's own type gives them: signed, unsigned or 64 bits.
    #[test]
    fn enums() {
        let mut builder = Builder::new();
        builder.enumeration("e", 1, &[("MINUS", u32::MAX), ("SAME", 7)]);
        builder.enumeration("", 0, &[("PLUS", u32::MAX), ("SAME", 7), ("TWICE", 1)]);
        builder.enumeration("f", 0, &[("TWICE", 2)]);
        let name = builder.text("e64");
        let wide = builder.text("WIDE");
        builder.raw(name, ENUM64 << 24 | 1, 8, &[wide, 5, 1]);
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        for (name, enumerator, value) in [
            (None, "MINUS", -1),
            (Some("e"), "MINUS", -1),
            (None, "PLUS", i64::from(u32::MAX)),
            (None, "SAME", 7),
            (Some("f"), "TWICE", 2),
            (Some("e64"), "WIDE", 0x1_0000_0005),
        ] {
            assert_eq!(btf.enum_value(name, enumerator).unwrap(), value);
        }
        assert!(message(btf.enum_value(None, "TWICE")).contains("ambiguous"));
        assert_eq!(
            message(btf.enum_value(Some("e"), "PLUS")),
            "BTF has no enumerator PLUS in enum e"
        );
    }

    /// Parameters read like C, of functions and of tracepoint typedefs alike.
    #[test]
    fn parameters() {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        let id = builder.add("pid_t", TYPEDEF, int);
        let task = builder.add("task_struct", FWD, 0);
        let constant = builder.add("", CONST, task);
        let task = builder.add("", PTR, constant);
        let tasks = builder.add("", PTR, task);
        let void = builder.add("", PTR, 0);
        let prototype = builder.prototype(&[void, tasks, task, id]);
        let pointer = builder.add("", PTR, prototype);
        builder.add("btf_trace_x", TYPEDEF, pointer);
        builder.add("f", FUNC, prototype);
        let other = builder.prototype(&[]);
        builder.add("g", FUNC, prototype);
        builder.add("g", FUNC, other);
        builder.add("h", TYPEDEF, int);
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, &["f"]).unwrap();
        let expected = [
            "void *",
            "struct task_struct **",
            "struct task_struct *",
            "int",
        ];
        for name in ["f", "btf_trace_x"] {
            assert_eq!(btf.parameters(name).unwrap().unwrap(), expected);
        }
        assert_eq!(btf.parameters("absent").unwrap(), None);
        assert!(btf.func_id("f").unwrap().is_some());
        assert_eq!(btf.func_id("g").unwrap(), None, "not among the names");
        assert!(message(btf.parameters("g")).contains("ambiguous"));
        assert_eq!(
            message(btf.parameters("h")),
            "h has an unknown shape: not a function"
        );
    }
}

/// The structs of a small kernel: members in order, by type. Each is resolved from its own place,
/// so that two mixed-up members cannot go unnoticed.
const STRUCTS: &[(&str, &[(&str, &str)])] = &[
    ("qstr", &[("hash", "long"), ("name", "ptr")]),
    ("path", &[("mnt", "ptr"), ("dentry", "ptr")]),
    ("list_head", &[("next", "ptr"), ("prev", "ptr")]),
    ("page_counter", &[("usage", "long"), ("max", "long")]),
    (
        "percpu_counter",
        &[
            ("lock", "int"),
            ("", "int"),
            ("count", "long"),
            ("counters", "ptr"),
        ],
    ),
    ("bpf_array", &[("map", "long"), ("pptrs", "ptr")]),
    ("mm_rss_stat", &[("count", "long[4]")]),
    ("kuid_t", &[("val", "int")]),
    (
        "cgroup_subsys_state",
        &[("cgroup", "ptr"), ("parent", "ptr")],
    ),
    ("vfsmount", &[("mnt_root", "ptr")]),
    (
        "task_struct",
        &[
            ("flags", "int"),
            ("pid", "int"),
            ("tgid", "int"),
            ("", "int"),
            ("comm", "comm"),
            ("real_parent", "ptr"),
            ("group_leader", "ptr"),
            ("mm", "ptr"),
            ("signal", "ptr"),
            ("real_cred", "ptr"),
            ("start_boottime", "long"),
            ("cgroups", "ptr"),
            ("thread_node", "list_head"),
        ],
    ),
    (
        "signal_struct",
        &[
            ("live", "int"),
            ("oom_score_adj", "short"),
            ("", "short"),
            ("oom_mm", "ptr"),
            ("thread_head", "list_head"),
        ],
    ),
    ("cred", &[("usage", "long"), ("uid", "kuid_t")]),
    (
        "mm_struct",
        &[
            ("total_vm", "long"),
            ("pgtables_bytes", "long"),
            ("exe_file", "ptr"),
            ("rss_stat", "percpu_counter[4]"),
        ],
    ),
    ("file", &[("f_op", "ptr"), ("f_path", "path")]),
    ("dentry", &[("d_parent", "ptr"), ("d_name", "qstr")]),
    (
        "mount",
        &[
            ("mnt_parent", "ptr"),
            ("mnt_mountpoint", "ptr"),
            ("mnt", "vfsmount"),
        ],
    ),
    ("css_set", &[("refcount", "long"), ("subsys", "ptr[5]")]),
    (
        "cgroup",
        &[
            ("self", "cgroup_subsys_state"),
            ("kn", "ptr"),
            ("root", "ptr"),
        ],
    ),
    ("cgroup_root", &[("flags", "int"), ("hierarchy_id", "int")]),
    (
        "kernfs_node",
        &[
            ("count", "long"),
            ("__parent", "ptr"),
            ("name", "ptr"),
            ("id", "long"),
        ],
    ),
    (
        "mem_cgroup",
        &[
            ("css", "cgroup_subsys_state"),
            ("memory", "page_counter"),
            ("swap", "page_counter"),
            ("oom_group", "bool"),
        ],
    ),
    (
        "oom_control",
        &[
            ("zonelist", "ptr"),
            ("memcg", "ptr"),
            ("gfp_mask", "int"),
            ("order", "int"),
            ("totalpages", "long"),
            ("chosen", "ptr"),
            ("chosen_points", "long"),
            ("constraint", "int"),
        ],
    ),
    ("pt_regs", &[("ax", "long"), ("si", "long"), ("di", "long")]),
];

/// What differs from the small kernel as it stands.
#[derive(Default)]
struct Changes<'a> {
    /// A member as `struct.member`, and its new type; an empty type takes it out.
    member: Option<(&'a str, &'a str)>,
    /// A new name for a member.
    rename: Option<(&'a str, &'a str)>,
    /// A struct that does not exist.
    without: &'a str,
    no_memcg: bool,
    /// The parameters of mark_victim after `void *`.
    mark_victim: Option<&'a [&'a str]>,
    /// The value of `MM_SHMEMPAGES`.
    shmem: Option<u32>,
}

/// Builds the small kernel.
fn kernel(changes: &Changes<'_>) -> Vec<u8> {
    let mut builder = Builder::new();
    let mut types: HashMap<String, (u32, u32)> = HashMap::new();
    for (name, size) in [("bool", 1), ("short", 2), ("int", 4), ("long", 8)] {
        types.insert(name.to_owned(), (builder.int(name, size), size));
    }
    let byte = builder.int("char", 1);
    types.insert("comm".to_owned(), (builder.array(byte, 16), 16));
    types.insert("ptr".to_owned(), (builder.add("", PTR, 0), 8));
    for (name, members) in STRUCTS {
        if *name == changes.without {
            continue;
        }
        let mut offset = 0;
        let mut body = Vec::new();
        for &(member, ty) in *members {
            let full = format!("{name}.{member}");
            let ty = changes.member.filter(|c| c.0 == full).map_or(ty, |c| c.1);
            let member = changes
                .rename
                .filter(|c| c.0 == full)
                .map_or(member, |c| c.1);
            if ty.is_empty() {
                continue;
            }
            if let Some((element, len)) = ty.split_once('[')
                && !types.contains_key(ty)
            {
                let len: u32 = len.trim_end_matches(']').parse().unwrap();
                let (id, size) = types[element];
                types.insert(ty.to_owned(), (builder.array(id, len), size * len));
            }
            let (id, size) = types[ty];
            body.push((member, id, offset * 8));
            offset += size;
        }
        let id = builder.strukt(name, offset, &body);
        types.insert((*name).to_owned(), (id, offset));
        let pointer = builder.add("", PTR, id);
        types.insert(format!("{name} *"), (pointer, 8));
    }
    let shmem = changes.shmem.unwrap_or(3);
    let counters = [
        "MM_FILEPAGES",
        "MM_ANONPAGES",
        "MM_SWAPENTS",
        "MM_SHMEMPAGES",
    ];
    builder.enumeration(
        "",
        0,
        &[0, 1, 2, 3].map(|i| (counters[i], [0, 1, 2, shmem][i])),
    );
    let memory = match changes.no_memcg {
        true => "io_cgrp_id",
        false => "memory_cgrp_id",
    };
    builder.enumeration("cgroup_subsys_id", 0, &[("cpuset_cgrp_id", 0), (memory, 4)]);
    let mut parameters = vec![types["ptr"].0];
    let mark_victim = changes.mark_victim.unwrap_or(&["task_struct *", "int"]);
    parameters.extend(mark_victim.iter().map(|ty| types[*ty].0));
    let prototype = builder.prototype(&parameters);
    let pointer = builder.add("", PTR, prototype);
    builder.add("btf_trace_mark_victim", TYPEDEF, pointer);
    for (name, parameters) in [
        ("oom_kill_process", &["oom_control *", "ptr"][..]),
        ("oom_badness", &["task_struct *", "long"]),
        ("out_of_memory", &["oom_control *"]),
    ] {
        let parameters = parameters.iter().filter_map(|ty| Some(types.get(*ty)?.0));
        let parameters: Vec<u32> = parameters.collect();
        let prototype = builder.prototype(&parameters);
        builder.add(name, FUNC, prototype);
    }
    builder.bytes()
}

fn resolved(changes: &Changes<'_>) -> Result<Resolved, BtfError> {
    let bytes = kernel(changes);
    resolve(&Btf::parse(&bytes, NAMES)?, 4096, 2, "6.18.44")
}

mod resolution {
    use super::*;

    /// Every member of the layout comes from the member its documentation names.
    #[test]
    fn complete() {
        let resolved = resolved(&Changes::default()).unwrap();
        assert_eq!(resolved.absent, [""; 0]);
        let expected = Layout {
            task_pid: 4,
            task_tgid: 8,
            task_comm: 16,
            task_flags: 0,
            task_real_parent: 32,
            task_group_leader: 40,
            task_mm: 48,
            task_signal: 56,
            task_real_cred: 64,
            task_start_boottime: 72,
            task_cgroups: 80,
            task_thread_node: 88,
            signal_thread_head: 16,
            signal_oom_score_adj: 4,
            signal_live: 0,
            signal_oom_mm: 8,
            cred_uid: 8,
            mm_total_vm: 0,
            mm_pgtables_bytes: 8,
            mm_exe_file: 16,
            mm_rss_stat: 24,
            rss_stat_stride: 24,
            rss_stat_count: 8,
            rss_stat_percpu: 16,
            bpf_array_pptrs: 8,
            cpus: 2,
            mm_filepages: 0,
            mm_anonpages: 1,
            mm_swapents: 2,
            mm_shmempages: 3,
            file_path_mnt: 8,
            file_path_dentry: 16,
            dentry_parent: 0,
            dentry_name: 16,
            mount_mnt: 16,
            mount_parent: 0,
            mount_mountpoint: 8,
            vfsmount_root: 0,
            css_set_memory: 40,
            css_cgroup: 0,
            css_parent: 8,
            cgroup_kn: 16,
            cgroup_root: 24,
            cgroup_root_hierarchy_id: 4,
            kernfs_parent: 8,
            kernfs_name: 16,
            kernfs_id: 24,
            memcg_css: 0,
            memcg_memory_usage: 16,
            memcg_memory_max: 24,
            memcg_swap_usage: 32,
            memcg_swap_max: 40,
            memcg_oom_group: 48,
            oc_memcg: 8,
            oc_gfp_mask: 16,
            oc_order: 20,
            oc_totalpages: 24,
            oc_chosen: 32,
            oc_chosen_points: 40,
            oc_constraint: 48,
            regs_arg0: 16,
            regs_arg1: 8,
            regs_ret: 0,
            mark_victim_has_task: 1,
            page_size: 4096,
        };
        for (found, expected) in resolved.layout.members().zip(expected.members()) {
            assert_eq!(found, expected);
        }
        let FunctionFacts {
            oom_kill_process,
            oom_badness,
            out_of_memory,
        } = resolved.functions;
        for id in [oom_kill_process, oom_badness, out_of_memory] {
            assert!(id.is_some());
        }
    }

    /// A required member that is missing, or of another size, is named together with the kernel.
    #[test]
    fn required() {
        for full in [
            "task_struct.pid",
            "task_struct.tgid",
            "task_struct.comm",
            "task_struct.real_parent",
            "task_struct.group_leader",
            "task_struct.mm",
            "task_struct.signal",
            "task_struct.real_cred",
            "task_struct.start_boottime",
            "task_struct.cgroups",
            "signal_struct.oom_score_adj",
            "cred.uid",
            "mm_struct.total_vm",
            "mm_struct.pgtables_bytes",
            "mm_struct.rss_stat",
            "percpu_counter.count",
            "css_set.subsys",
            "cgroup_subsys_state.cgroup",
            "cgroup.kn",
            "cgroup.root",
            "cgroup_root.hierarchy_id",
            "kernfs_node.name",
            "kernfs_node.id",
        ] {
            let (name, member) = full.split_once('.').unwrap();
            let gone = Changes {
                member: Some((full, "")),
                ..Changes::default()
            };
            assert_eq!(
                message(resolved(&gone)),
                format!("kernel 6.18.44: BTF has no member \"{member}\" in struct {name}")
            );
            if matches!(member, "rss_stat" | "subsys") {
                continue;
            }
            let narrow = Changes {
                member: Some((full, "bool")),
                ..Changes::default()
            };
            let found = message(resolved(&narrow));
            let start = format!(
                "kernel 6.18.44: member \"{member}\" of struct {name} has 1 bytes instead of "
            );
            assert!(found.starts_with(&start), "{found}");
        }
        let gone = Changes {
            without: "cred",
            ..Changes::default()
        };
        assert_eq!(
            message(resolved(&gone)),
            "kernel 6.18.44: BTF has no struct cred"
        );
    }

    /// An optional member that is missing is absent in the layout and listed; one of another size
    /// is an error, because it would be misread.
    #[test]
    fn optional() {
        for (full, absent) in [
            ("task_struct.flags", &["task_flags"][..]),
            ("signal_struct.live", &["signal_live"]),
            ("signal_struct.oom_mm", &["signal_oom_mm"]),
            ("mm_struct.exe_file", &["mm_exe_file"]),
            (
                "file.f_path",
                &["mm_exe_file", "file_path_mnt", "file_path_dentry"],
            ),
            ("path.mnt", &["mm_exe_file", "file_path_mnt"]),
            ("dentry.d_parent", &["mm_exe_file", "dentry_parent"]),
            ("qstr.name", &["mm_exe_file", "dentry_name"]),
            ("task_struct.thread_node", &["task_thread_node"]),
            ("signal_struct.thread_head", &["signal_thread_head"]),
            ("mount.mnt", &["mm_exe_file", "mount_mnt"]),
            ("mount.mnt_parent", &["mm_exe_file", "mount_parent"]),
            ("mount.mnt_mountpoint", &["mm_exe_file", "mount_mountpoint"]),
            ("vfsmount.mnt_root", &["mm_exe_file", "vfsmount_root"]),
            (
                "cgroup_subsys_state.parent",
                &["css_parent", "memcg_memory_max"],
            ),
            ("mem_cgroup.css", &["memcg_css", "memcg_memory_max"]),
            (
                "mem_cgroup.memory",
                &["memcg_memory_usage", "memcg_memory_max"],
            ),
            ("mem_cgroup.swap", &["memcg_swap_usage", "memcg_swap_max"]),
            ("mem_cgroup.oom_group", &["memcg_oom_group"]),
            ("oom_control.memcg", &["oc_memcg"]),
            ("oom_control.gfp_mask", &["oc_gfp_mask"]),
            ("oom_control.order", &["oc_order"]),
            ("oom_control.totalpages", &["oc_totalpages"]),
            ("oom_control.chosen", &["oc_chosen"]),
            ("oom_control.chosen_points", &["oc_chosen_points"]),
            ("oom_control.constraint", &["oc_constraint"]),
            ("pt_regs.di", &["regs_arg0"]),
        ] {
            let gone = Changes {
                member: Some((full, "")),
                ..Changes::default()
            };
            let resolved = resolved(&gone).unwrap();
            assert_eq!(resolved.absent, absent, "{full}");
            let members = resolved.layout.members();
            let absents: Vec<&str> = members.filter(|m| m.1 == ABSENT).map(|m| m.0).collect();
            assert_eq!(absents, absent, "{full}");
        }
        let wide = Changes {
            member: Some(("mem_cgroup.oom_group", "int")),
            ..Changes::default()
        };
        assert_eq!(
            message(resolved(&wide)),
            "kernel 6.18.44: member \"oom_group\" of struct mem_cgroup has 4 bytes instead of 1"
        );
        for (without, count) in [("oom_control", 7), ("pt_regs", 3), ("mem_cgroup", 6)] {
            let gone = Changes {
                without,
                ..Changes::default()
            };
            let resolved = resolved(&gone).unwrap();
            assert_eq!(resolved.absent.len(), count, "{without}");
            assert_eq!(
                resolved.functions.out_of_memory.is_some(),
                without != "oom_control"
            );
        }
    }

    /// Before 6.2 the counters are bare atomics inside a struct; any third shape is named.
    #[test]
    fn rss_stat() {
        let with = |ty| {
            let member = Some(("mm_struct.rss_stat", ty));
            resolved(&Changes {
                member,
                ..Changes::default()
            })
        };
        let layout = with("mm_rss_stat").unwrap().layout;
        assert_eq!(
            (
                layout.mm_rss_stat,
                layout.rss_stat_stride,
                layout.rss_stat_count
            ),
            (24, 8, 0)
        );
        let found = message(with("int[4]"));
        assert!(found.ends_with(
            "\"rss_stat\" of struct mm_struct has an unknown shape: an array of 4 elements of 4 bytes (int)"
        ), "{found}");
        assert!(message(with("long")).contains("no member \"rss_stat.count\" in struct mm_struct"));
        assert!(
            message(with("percpu_counter[3]"))
                .contains("MM_SHMEMPAGES has an unknown shape: 3, of 3 counters")
        );
        let shmem = Changes {
            shmem: Some(2),
            ..Changes::default()
        };
        assert_eq!(resolved(&shmem).unwrap().layout.mm_shmempages, 2);
    }

    /// A kernel without the memory controller is told so; its place must lie within the array.
    #[test]
    fn memory_controller() {
        let without = Changes {
            no_memcg: true,
            ..Changes::default()
        };
        assert_eq!(
            message(resolved(&without)),
            "kernel 6.18.44: the kernel was built without the memory controller (CONFIG_MEMCG)"
        );
        for (ty, found) in [
            ("ptr[4]", "an array of 4 elements of 8 bytes (void *)"),
            ("int[5]", "an array of 5 elements of 4 bytes (int)"),
            ("ptr", "not an array"),
        ] {
            let member = Some(("css_set.subsys", ty));
            let error = message(resolved(&Changes {
                member,
                ..Changes::default()
            }));
            assert!(error.ends_with(found), "{error}");
        }
    }

    /// Both names of the parent in kernfs are known.
    #[test]
    fn kernfs_parent() {
        let rename = |name| {
            let rename = Some(("kernfs_node.__parent", name));
            resolved(&Changes {
                rename,
                ..Changes::default()
            })
        };
        assert_eq!(rename("parent").unwrap().layout.kernfs_parent, 8);
        assert!(message(rename("dad")).ends_with("no member \"parent\" in struct kernfs_node"));
    }

    /// Registers are recognised by name and number: aarch64 has 31 in a row, other architectures
    /// keep their arguments elsewhere.
    #[test]
    fn registers() {
        let with = |regs| {
            let changes = Changes {
                member: Some(("pt_regs.ax", regs)),
                rename: Some(("pt_regs.ax", "regs")),
                ..Changes::default()
            };
            let layout = resolved(&changes).unwrap().layout;
            (layout.regs_arg0, layout.regs_arg1, layout.regs_ret)
        };
        assert_eq!(with("long[31]"), (0, 8, 0));
        // Not aarch64: the x86 names count, of which this one lacks the result.
        assert_eq!(with("long[32]"), (264, 256, ABSENT));
    }

    /// The tracepoint's two known prototypes are told apart; others are spelled out.
    #[test]
    fn mark_victim() {
        let with = |types: &[&str]| {
            let mark_victim = Some(types);
            resolved(&Changes {
                mark_victim,
                ..Changes::default()
            })
        };
        assert_eq!(with(&["int"]).unwrap().layout.mark_victim_has_task, 0);
        assert_eq!(
            with(&["task_struct *"])
                .unwrap()
                .layout
                .mark_victim_has_task,
            1
        );
        for (types, found) in [
            (&["long"][..], "(void *, long)"),
            (
                &["oom_control *", "int"],
                "(void *, struct oom_control *, int)",
            ),
            (&[], "(void *)"),
            (&["int", "int"], "(void *, int, int)"),
        ] {
            assert_eq!(
                message(with(types)),
                format!("kernel 6.18.44: tracepoint mark_victim has an unknown shape: {found}")
            );
        }
    }

    /// A function whose parameters changed is not one the hook may rely on.
    #[test]
    fn functions() {
        let mut bytes = kernel(&Changes::default());
        // Renames out_of_memory in place.
        let at = bytes
            .windows(13)
            .position(|window| window == b"out_of_memory")
            .unwrap();
        bytes[at] = b'O';
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        let functions = resolve(&btf, 4096, 2, "").unwrap().functions;
        assert!(functions.oom_badness.is_some() && functions.oom_kill_process.is_some());
        assert_eq!(functions.out_of_memory, None);
    }
}

mod hostile {
    use super::*;

    /// Whatever the bytes, reading them ends, and in a value or an error.
    fn survives(bytes: &[u8]) {
        if let Ok(btf) = Btf::parse(bytes, NAMES) {
            let _ = resolve(&btf, 4096, 2, "");
            let _ = btf.member("unlisted", "a.b");
            let _ = btf.parameters("unlisted");
        }
    }

    /// Typedefs and pointers that refer to each other end as an error, not in a hang.
    #[test]
    fn cycles() {
        let mut builder = Builder::new();
        builder.add("a", TYPEDEF, 2);
        builder.add("b", TYPEDEF, 1);
        builder.add("", PTR, 3);
        let prototype = builder.prototype(&[3]);
        builder.add("f", FUNC, prototype);
        builder.add("g", FUNC, builder.count + 1);
        builder.strukt("s", 8, &[("m", 1, 0)]);
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        assert!(message(btf.member("s", "m")).contains("refer to each other"));
        assert!(message(btf.parameters("a")).contains("refer to each other"));
        assert!(message(btf.parameters("f")).contains("without end"));
        assert!(message(btf.parameters("g")).contains("not a function"));
    }

    /// A struct that contains itself, once or so often that the search would fan out for ever.
    #[test]
    fn nesting() {
        let mut builder = Builder::new();
        builder.strukt("s", 8, &[("", 1, 0)]);
        builder.strukt("wide", 8, &[("", 3, 0); 100]);
        builder.strukt("", 8, &[("", 4, 0); 100]);
        builder.strukt("", 8, &[("", 5, 0); 100]);
        builder.strukt("", 8, &[("", 6, 0); 100]);
        builder.strukt("", 8, &[]);
        let bytes = builder.bytes();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        assert!(message(btf.member("s", "m")).contains("nested without end"));
        assert!(message(btf.member("wide", "m")).contains("too many members"));
    }

    /// Very many definitions of a looked-up name are refused before they fill memory.
    #[test]
    fn definitions() {
        let mut builder = Builder::new();
        let name = builder.text("cred");
        for _ in 0..2000 {
            builder.raw(name, STRUCT << 24, 0, &[]);
        }
        let bytes = builder.bytes();
        assert!(parse_error(&bytes).contains("too many definitions"));
        let btf = Btf::parse(&bytes, &[]).unwrap();
        assert!(message(btf.struct_size("cred")).contains("too many definitions"));
    }

    /// The small kernel, cut at every length, is refused or read, never worse.
    #[test]
    fn truncation() {
        let bytes = kernel(&Changes::default());
        for len in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..len], NAMES).is_err(), "{len}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        /// The small kernel with some bytes changed.
        #[test]
        fn flipped(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut bytes = kernel(&Changes::default());
            for (index, value) in flips {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            survives(&bytes);
        }

        /// The small kernel with words of its type section replaced by small numbers, which are
        /// mostly valid ids: cycles of every kind.
        #[test]
        fn rewired(changes in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..80), 1..20)) {
            let mut bytes = kernel(&Changes::default());
            let words = u32::from_ne_bytes(bytes[12..16].try_into().unwrap()) as usize / 4;
            for (index, value) in changes {
                put(&mut bytes, 24 + 4 * index.index(words), value);
            }
            survives(&bytes);
        }

        /// A good header, and nonsense after it.
        #[test]
        fn nonsense(words in prop::collection::vec(any::<u32>(), 0..64)) {
            let mut builder = Builder::new();
            builder.types = words;
            survives(&builder.bytes());
        }
    }
}

/// BTF of real kernels, read a second time by plain and slow means.
mod real {
    use super::*;

    /// One type: name, kind, flag, size or type, and what follows it.
    type Plain = (String, u32, bool, u32, Vec<u32>);

    /// All types, by id.
    fn plain(bytes: &[u8]) -> Vec<Plain> {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let body = word(4) as usize;
        let strings = body + word(16) as usize;
        let name = |offset: u32| {
            let text = &bytes[strings + offset as usize..];
            let end = text.iter().position(|&byte| byte == 0).unwrap();
            String::from_utf8(text[..end].to_vec()).unwrap()
        };
        let mut at = body + word(8) as usize;
        let end = at + word(12) as usize;
        let mut types = vec![(String::new(), 0, false, 0, Vec::new())];
        while at < end {
            let info = word(at + 4);
            let kind = info >> 24 & 0x7f;
            let count = info as usize & 0xff_ffff;
            // Words that follow a type, by kind.
            let more = [
                0,
                1,
                0,
                3,
                3 * count,
                3 * count,
                2 * count,
                0,
                0,
                0,
                0,
                0,
                0,
                2 * count,
                1,
                3 * count,
                0,
                1,
                0,
                3 * count,
            ];
            let more = more[kind as usize];
            let words = (0..more).map(|i| word(at + 12 + 4 * i)).collect();
            types.push((name(word(at)), kind, info >> 31 == 1, word(at + 8), words));
            at += 12 + 4 * more;
        }
        types
    }

    /// All members of a struct as (name, bit, type), those of anonymous ones included.
    fn members(
        bytes: &[u8],
        types: &[Plain],
        id: u32,
        base: u32,
        into: &mut Vec<(String, u32, u32)>,
    ) {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let strings = word(4) as usize + word(16) as usize;
        let (_, kind, flag, _, words) = &types[id as usize];
        if ![STRUCT, UNION].contains(kind) {
            return;
        }
        for member in words.chunks(3) {
            let text = &bytes[strings + member[0] as usize..];
            let text = text.split(|&byte| byte == 0).next().unwrap();
            let bit = base
                + if *flag {
                    member[2] & 0xff_ffff
                } else {
                    member[2]
                };
            if text.is_empty() {
                members(bytes, types, member[1], bit, into);
            } else {
                into.push((String::from_utf8(text.to_vec()).unwrap(), bit, member[1]));
            }
        }
    }

    /// The offset of a member, from the first definition of the struct that has it.
    fn offset(bytes: &[u8], types: &[Plain], name: &str, path: &str) -> Option<u32> {
        let definitions =
            (0..types.len()).filter(|&id| types[id].0 == name && types[id].1 == STRUCT);
        for mut id in definitions.map(|id| id as u32) {
            let mut bits = 0;
            let found = path.split('.').all(|component| {
                while [TYPEDEF, VOLATILE, CONST, TYPE_TAG].contains(&types[id as usize].1) {
                    id = types[id as usize].3;
                }
                let mut all = Vec::new();
                members(bytes, types, id, 0, &mut all);
                let member = all.into_iter().find(|member| member.0 == component);
                member.is_some_and(|(_, bit, ty)| {
                    bits += bit;
                    id = ty;
                    true
                })
            });
            if found {
                return Some(bits / 8);
            }
        }
        None
    }

    /// Where each plain member of the layout comes from.
    const SOURCES: &[(&str, &str, &str)] = &[
        ("task_pid", "task_struct", "pid"),
        ("task_thread_node", "task_struct", "thread_node"),
        ("signal_thread_head", "signal_struct", "thread_head"),
        ("bpf_array_pptrs", "bpf_array", "pptrs"),
        ("task_tgid", "task_struct", "tgid"),
        ("task_comm", "task_struct", "comm"),
        ("task_flags", "task_struct", "flags"),
        ("task_real_parent", "task_struct", "real_parent"),
        ("task_group_leader", "task_struct", "group_leader"),
        ("task_mm", "task_struct", "mm"),
        ("task_signal", "task_struct", "signal"),
        ("task_real_cred", "task_struct", "real_cred"),
        ("task_start_boottime", "task_struct", "start_boottime"),
        ("task_cgroups", "task_struct", "cgroups"),
        ("signal_oom_score_adj", "signal_struct", "oom_score_adj"),
        ("signal_live", "signal_struct", "live"),
        ("signal_oom_mm", "signal_struct", "oom_mm"),
        ("cred_uid", "cred", "uid"),
        ("mm_total_vm", "mm_struct", "total_vm"),
        ("mm_pgtables_bytes", "mm_struct", "pgtables_bytes"),
        ("mm_exe_file", "mm_struct", "exe_file"),
        ("mm_rss_stat", "mm_struct", "rss_stat"),
        ("file_path_mnt", "file", "f_path.mnt"),
        ("file_path_dentry", "file", "f_path.dentry"),
        ("dentry_parent", "dentry", "d_parent"),
        ("dentry_name", "dentry", "d_name.name"),
        ("mount_mnt", "mount", "mnt"),
        ("mount_parent", "mount", "mnt_parent"),
        ("mount_mountpoint", "mount", "mnt_mountpoint"),
        ("vfsmount_root", "vfsmount", "mnt_root"),
        ("css_cgroup", "cgroup_subsys_state", "cgroup"),
        ("css_parent", "cgroup_subsys_state", "parent"),
        ("cgroup_kn", "cgroup", "kn"),
        ("cgroup_root", "cgroup", "root"),
        ("cgroup_root_hierarchy_id", "cgroup_root", "hierarchy_id"),
        ("kernfs_parent", "kernfs_node", "__parent"),
        ("kernfs_parent", "kernfs_node", "parent"),
        ("kernfs_name", "kernfs_node", "name"),
        ("kernfs_id", "kernfs_node", "id"),
        ("memcg_css", "mem_cgroup", "css"),
        ("memcg_memory_usage", "mem_cgroup", "memory.usage"),
        ("memcg_memory_max", "mem_cgroup", "memory.max"),
        ("memcg_swap_usage", "mem_cgroup", "memsw.usage"),
        ("memcg_swap_max", "mem_cgroup", "memsw.max"),
        ("memcg_oom_group", "mem_cgroup", "oom_group"),
        ("oc_memcg", "oom_control", "memcg"),
        ("oc_gfp_mask", "oom_control", "gfp_mask"),
        ("oc_order", "oom_control", "order"),
        ("oc_totalpages", "oom_control", "totalpages"),
        ("oc_chosen", "oom_control", "chosen"),
        ("oc_chosen_points", "oom_control", "chosen_points"),
        ("oc_constraint", "oom_control", "constraint"),
        ("regs_arg0", "pt_regs", "di"),
        ("regs_arg0", "pt_regs", "regs"),
        ("regs_arg1", "pt_regs", "si"),
        ("regs_ret", "pt_regs", "ax"),
        ("regs_ret", "pt_regs", "regs"),
    ];

    fn check(path: &Path) {
        let bytes = load(path).unwrap();
        let btf = Btf::parse(&bytes, NAMES).unwrap();
        let resolved = resolve(&btf, 4096, 2, &path.display().to_string()).unwrap();
        assert_eq!(resolved.absent, [""; 0], "{}", path.display());
        let types = plain(&bytes);
        let mut checked = Vec::new();
        for (name, value) in resolved.layout.members() {
            for &(_, of, member) in SOURCES.iter().filter(|source| source.0 == name) {
                if let Some(expected) = offset(&bytes, &types, of, member) {
                    assert_eq!(value, expected, "{}: {name}", path.display());
                    checked.push(name);
                }
            }
        }
        // 12 members are more than the offset of one member.
        assert!(
            checked.len() >= Layout::UNKNOWN.members().count() - 12,
            "{checked:?}"
        );
    }

    /// The running kernel resolves completely, and a second reader agrees. A kernel without BTF is
    /// reported as one.
    #[test]
    fn running_kernel() {
        let path = Path::new(VMLINUX);
        match path.exists() {
            true => check(path),
            false => assert!(message(load(path)).contains("CONFIG_DEBUG_INFO_BTF")),
        }
    }

    /// The same for every file of a directory of other kernels' BTF, if the environment names one.
    #[test]
    fn other_kernels() {
        if let Some(directory) = std::env::var_os("OOMTRACE_TEST_BTFS") {
            for entry in std::fs::read_dir(directory).unwrap() {
                check(&entry.unwrap().path());
            }
        }
    }

    /// The real BTF, cut short or with bytes changed, ends in a value or an error.
    #[test]
    fn damaged() {
        let Ok(bytes) = load(Path::new(VMLINUX)) else {
            return;
        };
        let mut bytes = bytes.to_vec();
        let mut seed = 1_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for _ in 0..100 {
            let len = random(bytes.len());
            assert!(Btf::parse(&bytes[..len], NAMES).is_err(), "{len}");
        }
        // The type section alone is cut, or some byte is changed: anywhere, in the header, or near
        // the types that all others build on.
        for round in 0..120 {
            let at = match round % 4 {
                0 => 12,
                1 => random(24),
                2 => random(bytes.len() - 4),
                _ => 24 + random(100_000),
            };
            let before = bytes[at..at + 4].to_vec();
            match at {
                12 => put(&mut bytes, at, random(3_000_000) as u32),
                _ => bytes[at] = random(256) as u8,
            }
            if let Ok(btf) = Btf::parse(&bytes, NAMES) {
                let _ = resolve(&btf, 4096, 2, "");
            }
            bytes[at..at + 4].copy_from_slice(&before);
        }
    }
}

/// A path without a file says so, and of the kernel's own what that means; one that cannot be read
/// says so.
#[test]
fn load_errors() {
    let missing = "/nonexistent/vmlinux";
    assert_eq!(
        message(load(Path::new(missing))),
        format!("{missing}: no such file")
    );
    let own = BtfError::Missing {
        path: VMLINUX.into(),
    };
    assert_eq!(
        own.to_string(),
        "/sys/kernel/btf/vmlinux: no such file: the kernel was built without \
         CONFIG_DEBUG_INFO_BTF, or sysfs is not mounted\nuse a kernel with BTF, or give \
         `oomtrace trace` this kernel's own in a file by --btf"
    );
    assert_eq!(
        message(load(Path::new("/"))),
        "/: cannot read the kernel's BTF"
    );
}
