//! JSON objects to columns, in one pass over their bytes.
//!
//! It decides only what it is sure of: JSON as RFC 8259 has it, UTF-8, no key twice, values in the notation that their
//! column's type usually has. Of any other record it says that it is in doubt, and in which column; the host looks at
//! those with DuckDB. So nothing here has to be complete, but all that is not in doubt has to be right.
//!
//! Records of one producer mostly have the same keys in the same order with the same white space. So of each member its
//! bytes up to the value are kept, and compared as a whole with what the next record has at that place.
//!
//! It is compiled to WebAssembly: bytes from anywhere are looked at in a sandbox of its own.
const std = @import("std");

const Bytes = @Vector(16, u8);

const Kind = enum(u32) { text, uuid, json, boolean, integer, double, float, decimal, timestamp, date, time };

/// A column as the host describes it, and what was found of it. The host has the same layout (`COLUMN` in __init__.py).
const Column = extern struct {
    name: [*]const u8,
    name_length: u32,
    kind: Kind,
    /// Bytes of a value, of an integer.
    width: u32,
    /// Digits behind the point: of a DECIMAL, or of a second; of `json` 1 where all digits of all numbers count.
    scale: u32,
    required: u32,
    /// The least and the greatest integer; of a DECIMAL the least number that has too many digits, as `most + least << 64`.
    least: i64,
    most: u64,
    /// A value a record; of a text (`text`, `uuid`, `json`) a `Span` a record.
    values: [*]u8,
    /// A bit a record.
    valid: [*]u8,
    nulls: u32,
    /// The number of the last record that had it, from 1.
    seen: u32,
};

const Span = extern struct { begin: u32, length: u32 };

/// What stood before the value of a member, and the column that it is of (none: of no one).
const Member = struct {
    const capacity = 64;
    length: u32 = 0,
    column: ?*Column = null,
    bytes: [capacity]u8 align(16) = undefined,
};

var members: [128]Member = @splat(.{});

/// The column that put the last record in doubt, from 1; 0: none.
var culprit: u32 = 0;

/// Forget what records were like before: for other columns.
export fn forget() void {
    for (&members) |*m| m.length = 0;
}

/// Decode `count` records: record `i` is `data[starts[i]..starts[i + 1]]`, with white space around it or not.
/// `doubts[i]` becomes 0 for one that is surely right, else the number of the column in doubt, from 1, or 65535 if it is
/// no particular one. There are 64 bytes of room behind the data, which is changed.
export fn decode(columns: [*]Column, width: u32, data: [*]u8, starts: [*]const u32, count: u32, doubts: [*]u16) u32 {
    for (columns[0..width]) |*c| {
        c.nulls = 0;
        c.seen = 0;
        @memset(c.valid[0 .. (count + 7) / 8], 0xff);
        if (c.kind == .boolean) @memset(c.values[0 .. (count + 7) / 8], 0);
    }
    var doubtful: u32 = 0;
    var row: u32 = 0;
    while (row < count) : (row += 1) {
        culprit = 0xffff;
        const sure = record(columns[0..width], data, data + starts[row], data + starts[row + 1], row);
        doubts[row] = if (sure) 0 else @intCast(culprit);
        if (sure) continue;
        doubtful += 1;
        for (columns[0..width]) |*c| {
            if (spanned(c)) spans(c)[row] = .{ .begin = 0, .length = 0 };
        }
    }
    return doubtful;
}

/// Put the texts of a column one behind another into `out`, and where each begins into `offsets`, with the end of the
/// last. Returns the bytes of all. There are 16 bytes of room behind them.
export fn gather(column: *Column, data: [*]const u8, count: u32, offsets: [*]u32, out: [*]u8) u32 {
    var at: u32 = 0;
    for (spans(column)[0..count], offsets[0..count]) |span, *offset| {
        offset.* = at;
        const from = data + span.begin;
        const to = out + at;
        var done: u32 = 0;
        while (done < span.length) : (done += 16) to[done..][0..16].* = from[done..][0..16].*;
        at += span.length;
    }
    offsets[count] = at;
    return at;
}

inline fn spanned(c: *const Column) bool {
    return c.kind == .text or c.kind == .uuid or c.kind == .json;
}

inline fn spans(c: *Column) [*]Span {
    return @ptrCast(@alignCast(c.values));
}

inline fn slots(comptime T: type, c: *Column) [*]T {
    return @ptrCast(@alignCast(c.values));
}

const Pointer = [*]u8;

fn record(columns: []Column, data: Pointer, begin: Pointer, end: Pointer, row: u32) bool {
    var p = begin;
    var found: u32 = 0;
    var number: u32 = 0;
    while (true) : (number += 1) {
        var column: ?*Column = null;
        const member = &members[@min(number, members.len - 1)];
        if (matches(member, p)) {
            column = member.column;
            p += member.length;
        } else {
            const from = p;
            p = blank(p);
            if (p[0] != @as(u8, if (number == 0) '{' else ',')) return false;
            p = blank(p + 1);
            if (number == 0 and p[0] == '}') break;
            const quote = p;
            p = text(data, p, end, null) orelse return false;
            const key = name(quote, p) orelse return false;
            for (columns) |*c| {
                if (std.mem.eql(u8, c.name[0..c.name_length], key)) column = c;
            }
            p = blank(p);
            if (p[0] != ':') return false;
            p = blank(p + 1);
            remember(member, from[0 .. @intFromPtr(p) - @intFromPtr(from)], column);
        }
        if (column) |c| {
            if (c.seen == row + 1) return false;
            c.seen = row + 1;
            if (p[0] == 'n') {
                if (c.required != 0) return doubt(columns, c);
                p = word(p, "null") orelse return false;
                nothing(c, row);
            } else p = value(c, data, row, p, end) orelse return doubt(columns, c);
            found += 1;
        } else p = skip(p, end, 0, false) orelse return false;
        if (p[0] != ',') {
            p = blank(p);
            if (p[0] == '}') break;
            if (p[0] != ',') return false;
        }
    }
    p = blank(p + 1);
    // What began in this record may have been found to end in the next one. White space behind it is its own, or the next one's.
    if (@intFromPtr(p) < @intFromPtr(end)) return false;
    if (@intFromPtr(p) > @intFromPtr(end) and !blanks(end, p)) return false;
    if (found == columns.len) return true;
    for (columns) |*c| {
        if (c.seen == row + 1) continue;
        if (c.required != 0) return doubt(columns, c);
        nothing(c, row);
    }
    return true;
}

fn doubt(columns: []Column, c: *Column) bool {
    culprit = @min((@intFromPtr(c) - @intFromPtr(columns.ptr)) / @sizeOf(Column) + 1, 0xffff);
    return false;
}

fn nothing(c: *Column, row: u32) void {
    c.nulls += 1;
    c.valid[row >> 3] &= ~(@as(u8, 1) << @intCast(row & 7));
    if (spanned(c)) spans(c)[row] = .{ .begin = 0, .length = 0 };
}

inline fn matches(member: *const Member, p: Pointer) bool {
    if (member.length == 0) return false;
    var at: u32 = 0;
    while (true) {
        const here: Bytes = p[at..][0..16].*;
        const there: Bytes = member.bytes[at..][0..16].*;
        const different = ~mask(here == there);
        const left = member.length - at;
        if (left <= 16) return different << @intCast(16 - left) & 0xffff == 0;
        if (different & 0xffff != 0) return false;
        at += 16;
    }
}

fn remember(member: *Member, bytes: []const u8, column: ?*Column) void {
    if (member == &members[members.len - 1] or bytes.len > Member.capacity) return;
    @memcpy(member.bytes[0..bytes.len], bytes);
    member.length = @intCast(bytes.len);
    member.column = column;
}

inline fn mask(where: @Vector(16, bool)) u32 {
    return @as(u16, @bitCast(where));
}

inline fn either(a: @Vector(16, bool), b: @Vector(16, bool)) @Vector(16, bool) {
    return @select(bool, a, a, b);
}

inline fn blank(from: Pointer) Pointer {
    var p = from;
    while (p[0] <= ' ' and (p[0] == ' ' or p[0] == '\n' or p[0] == '\r' or p[0] == '\t')) p += 1;
    return p;
}

fn blanks(from: Pointer, to: Pointer) bool {
    return @intFromPtr(blank(from)) >= @intFromPtr(to);
}

inline fn word(p: Pointer, comptime letters: []const u8) ?Pointer {
    return if (std.mem.eql(u8, p[0..letters.len], letters)) p + letters.len else null;
}

// -- texts -------------------------------------------------------------------------------------------------------------

/// Where the next quote, backslash or control character stands; `high` becomes true for a byte that is not ASCII.
inline fn special(from: Pointer, high: *bool) Pointer {
    var p = from;
    while (true) : (p += 16) {
        const v: Bytes = p[0..16].*;
        const found = mask(either(either(v == @as(Bytes, @splat('"')), v == @as(Bytes, @splat('\\'))), v < @as(Bytes, @splat(' '))));
        const upper = mask(@as(@Vector(16, i8), @bitCast(v)) < @as(@Vector(16, i8), @splat(0)));
        if (found != 0) {
            const at = @ctz(found);
            if (upper & ((@as(u32, 1) << @intCast(at)) - 1) != 0) high.* = true;
            return p + at;
        }
        if (upper != 0) high.* = true;
    }
}

var unescaped: [512]u8 = undefined;

/// What stands between two quotes; null for what has escapes and is long.
fn name(from: Pointer, to: Pointer) ?[]const u8 {
    const length = @intFromPtr(to) - @intFromPtr(from);
    if (std.mem.indexOfScalar(u8, from[0..length], '\\') == null) return from[1 .. length - 1];
    if (length > unescaped.len - 16) return null;
    @memcpy(unescaped[0..length], from[0..length]);
    var span: Span = undefined;
    const copy: Pointer = &unescaped;
    _ = text(copy, copy, copy + length, &span) orelse return null;
    return unescaped[span.begin..][0..span.length];
}

fn valid_text(from: Pointer, to: Pointer) bool {
    return std.unicode.utf8ValidateSlice(from[0 .. @intFromPtr(to) - @intFromPtr(from)]);
}

/// Behind a text; escapes in it are replaced by what they stand for if `span` is asked for.
fn text(data: Pointer, p: Pointer, end: Pointer, span: ?*Span) ?Pointer {
    if (p[0] != '"') return null;
    var high = false;
    var at = special(p + 1, &high);
    var to = at;
    while (at[0] == '\\') {
        var letter: [4]u8 = undefined;
        const escaped = escape(at, &letter) orelse return null;
        at += escaped.read;
        const next = special(at, &high);
        if (@intFromPtr(next) >= @intFromPtr(end)) return null;
        if (span != null) {
            @memcpy(to[0..escaped.written], letter[0..escaped.written]);
            to += escaped.written;
            const length = @intFromPtr(next) - @intFromPtr(at);
            std.mem.copyForwards(u8, to[0..length], at[0..length]);
            to += length;
        }
        at = next;
    }
    if (at[0] != '"') return null;
    if (high and !valid_text(p + 1, if (span != null) to else at)) return null;
    if (span) |s| s.* = .{ .begin = @intCast(@intFromPtr(p + 1) - @intFromPtr(data)), .length = @intCast(@intFromPtr(to) - @intFromPtr(p + 1)) };
    return at + 1;
}

const Escaped = struct { read: u32, written: u32 };

/// The character of an escape as UTF-8.
fn escape(p: Pointer, letter: *[4]u8) ?Escaped {
    letter[0] = switch (p[1]) {
        '"', '\\', '/' => p[1],
        'b' => 8,
        'f' => 12,
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            var point: u21 = hexadecimal(p + 2) orelse return null;
            var read: u32 = 6;
            if (point >= 0xd800 and point < 0xdc00) {
                if (p[6] != '\\' or p[7] != 'u') return null;
                const low = hexadecimal(p + 8) orelse return null;
                if (low < 0xdc00 or low > 0xdfff) return null;
                point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
                read = 12;
            }
            if (point == 0) return null;
            return .{ .read = read, .written = std.unicode.utf8Encode(point, letter) catch return null };
        },
        else => return null,
    };
    return .{ .read = 2, .written = 1 };
}

fn hexadecimal(p: Pointer) ?u16 {
    var number: u16 = 0;
    for (p[0..4]) |c| number = number << 4 | (std.fmt.charToDigit(c, 16) catch return null);
    return number;
}

// -- values ------------------------------------------------------------------------------------------------------------

/// Behind a value, which is stored; null if it is not surely one of the column's.
inline fn value(c: *Column, data: Pointer, row: u32, p: Pointer, end: Pointer) ?Pointer {
    switch (c.kind) {
        .text, .uuid => {
            var high = false;
            if (p[0] != '"') return null;
            const close = special(p + 1, &high);
            if (c.kind == .uuid and (close != p + 37 or !is_uuid(p + 1))) return null;
            if (close[0] != '"' or high) return text(data, p, end, &spans(c)[row]);
            const begin = @intFromPtr(p + 1);
            spans(c)[row] = .{ .begin = @intCast(begin - @intFromPtr(data)), .length = @intCast(@intFromPtr(close) - begin) };
            return close + 1;
        },
        .json => {
            const behind = skip(p, end, 0, c.scale == 1) orelse return null;
            const begin = @intFromPtr(p);
            spans(c)[row] = .{ .begin = @intCast(begin - @intFromPtr(data)), .length = @intCast(@intFromPtr(behind) - begin) };
            return behind;
        },
        .boolean => {
            if (p[0] == 'f') return word(p, "false");
            c.values[row >> 3] |= @as(u8, 1) << @intCast(row & 7);
            return word(p, "true");
        },
        else => {
            const quoted: u1 = @intFromBool(p[0] == '"');
            const behind = switch (c.kind) {
                .integer => integer(c, row, p + quoted),
                .double, .float => double(c, row, p + quoted),
                .decimal => decimal(c, row, p + quoted),
                else => if (quoted == 0) null else switch (c.kind) {
                    .timestamp => timestamp(c, row, p + 1),
                    .date => date_value(c, row, p + 1),
                    else => time_value(c, row, p + 1),
                },
            } orelse return null;
            if (quoted == 1 and behind[0] != '"') return null;
            return behind + quoted;
        },
    }
}

inline fn digit(c: u8) bool {
    return c -% '0' < 10;
}

/// The digits at the beginning of the next eight bytes: how many they are, and the number that they make. No branch depends on
/// them, as one that leaves a loop would.
const Digits = struct {
    number: u64,
    count: u32,

    inline fn at(p: Pointer) Digits {
        const values = std.mem.readInt(u64, p[0..8], .little) ^ 0x3030303030303030;
        // A byte above 9 gets its upper bit; what is carried goes to those behind it.
        const others = (values | values +% 0x7676767676767676) & 0x8080808080808080;
        const count: u32 = @ctz(others) / 8;
        if (count == 0) return .{ .number = 0, .count = 0 };
        const last = values << @intCast(64 - 8 * count);
        const pairs = last *% 10 +% (last >> 8);
        const low = (pairs & 0x000000ff000000ff) *% 0x000f424000000064;
        const high = (pairs >> 16 & 0x000000ff000000ff) *% 0x0000271000000001;
        return .{ .number = (low +% high) >> 32, .count = count };
    }
};

/// Behind digits, which are put at the end of a number.
inline fn all_digits(from: Pointer, number: *u64) Pointer {
    const first = Digits.at(from);
    var p = from + first.count;
    number.* = number.* *% tens[first.count] +% first.number;
    if (first.count == 8) {
        while (digit(p[0])) : (p += 1) number.* = number.* *% 10 +% (p[0] - '0');
    }
    return p;
}

const tens = [9]u64{ 1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000 };

fn integer(c: *Column, row: u32, from: Pointer) ?Pointer {
    const negative = from[0] == '-';
    const begin = from + @intFromBool(negative);
    var number: u64 = 0;
    const p = all_digits(begin, &number);
    const length = @intFromPtr(p) - @intFromPtr(begin);
    if (length == 0 or length > 19 or length > 1 and begin[0] == '0') return null;
    if (p[0] == '.' or p[0] | 32 == 'e') return null;
    if (negative and (number == 0 or number > ~@as(u64, @bitCast(c.least)) +% 1) or !negative and number > c.most) return null;
    if (negative) number = 0 -% number;
    switch (c.width) {
        1 => slots(u8, c)[row] = @truncate(number),
        2 => slots(u16, c)[row] = @truncate(number),
        4 => slots(u32, c)[row] = @truncate(number),
        else => slots(u64, c)[row] = number,
    }
    return p;
}

/// A number of JSON: its digits without sign, point and leading zeros as far as they fit, how many they are, and where it ends.
const Number = struct {
    negative: bool,
    number: u64,
    count: u32,
    fraction: u32,
    exponent: i32,
    exponential: bool,
    end: Pointer,

    inline fn at(from: Pointer) ?Number {
        const negative = from[0] == '-';
        const begin = from + @intFromBool(negative);
        var number: u64 = 0;
        var p = all_digits(begin, &number);
        const whole = @intFromPtr(p) - @intFromPtr(begin);
        if (whole == 0 or whole > 1 and begin[0] == '0') return null;
        var count = if (begin[0] == '0') 0 else whole;
        var fraction: usize = 0;
        if (p[0] == '.') {
            p += 1;
            const point = p;
            p = all_digits(p, &number);
            fraction = @intFromPtr(p) - @intFromPtr(point);
            if (fraction == 0) return null;
            count += fraction; // zeros behind the point of 0.001 count too: it is only asked whether all fit
        }
        var exponent: i32 = 0;
        const exponential = p[0] | 32 == 'e';
        if (exponential) {
            p += 1;
            const minus = p[0] == '-';
            if (minus or p[0] == '+') p += 1;
            if (!digit(p[0])) return null;
            while (digit(p[0])) : (p += 1) exponent = @min(exponent * 10 + (p[0] - '0'), 100_000);
            if (minus) exponent = -exponent;
        }
        return .{ .negative = negative, .number = number, .count = @intCast(count), .fraction = @intCast(fraction), .exponent = exponent, .exponential = exponential, .end = p };
    }
};

const powers: [23]f64 = blk: {
    var found: [23]f64 = undefined;
    var power: f64 = 1;
    for (&found) |*f| {
        f.* = power;
        power *= 10;
    }
    break :blk found;
};

fn double(c: *Column, row: u32, from: Pointer) ?Pointer {
    const n = Number.at(from) orelse return null;
    if (n.negative and n.number == 0) return null;
    const exponent = n.exponent - @as(i32, @intCast(@min(n.fraction, 100_000)));
    var number: f64 = undefined;
    if (n.count <= 15 and exponent >= -22 and exponent <= 22) { // both are exact, so one rounding
        number = @floatFromInt(n.number);
        if (exponent < 0) number /= powers[@intCast(-exponent)] else number *= powers[@intCast(exponent)];
        if (n.negative) number = -number;
    } else {
        number = std.fmt.parseFloat(f64, from[0 .. @intFromPtr(n.end) - @intFromPtr(from)]) catch return null;
    }
    if (!std.math.isFinite(number)) return null;
    if (c.kind == .float) {
        const single: f32 = @floatCast(number);
        if (!std.math.isFinite(single)) return null;
        slots(f32, c)[row] = single;
    } else slots(f64, c)[row] = number;
    return n.end;
}

fn decimal(c: *Column, row: u32, from: Pointer) ?Pointer {
    const n = Number.at(from) orelse return null;
    if (n.exponential or n.negative and n.number == 0) return null;
    const limit = @as(u128, @bitCast(@as(i128, c.least))) << 64 | c.most;
    var number: u128 = undefined;
    if (n.count <= 18 and n.fraction <= c.scale) {
        number = n.number;
    } else {
        if (n.count > 38) return null;
        number = 0;
        var fraction = n.fraction;
        var p = n.end;
        while (fraction > c.scale) : (fraction -= 1) { // zeros at its end say nothing
            p -= 1;
            if (p[0] != '0') return null;
        }
        var at = from + @intFromBool(n.negative);
        while (at != p) : (at += 1) {
            if (at[0] != '.') number = number * 10 + (at[0] - '0');
        }
    }
    if (n.fraction < c.scale) {
        const more = c.scale - n.fraction;
        if (n.count + more > 38) return null;
        for (0..more) |_| number *= 10;
    }
    if (number >= limit) return null;
    slots([2]u64, c)[row] = @bitCast(if (n.negative) 0 -% number else number);
    return n.end;
}

// -- times -------------------------------------------------------------------------------------------------------------

inline fn pair(p: Pointer) u32 {
    return @as(u32, p[0] -% '0') * 10 + (p[1] -% '0');
}

/// Whether the eight bytes are digits where `like` has zeros, and else what `like` has.
inline fn alike(p: Pointer, comptime like: *const [8]u8) bool {
    const have = std.mem.readInt(u64, p[0..8], .little);
    const want = comptime std.mem.readInt(u64, like, .little);
    const other = have ^ want;
    const room = comptime blk: { // what may be added to a digit, or to nothing, without the upper bit
        var bytes: [8]u8 = undefined;
        for (like, &bytes) |l, *b| b.* = if (l == '0') 0x76 else 0x7f;
        break :blk std.mem.readInt(u64, &bytes, .little);
    };
    return (other | (other & 0x7f7f7f7f7f7f7f7f) + room) & 0x8080808080808080 == 0;
}

var last_date: [10]u8 = @splat(0);
var last_day: i32 = 0;

/// The day, from 1970, of a date as YYYY-MM-DD.
inline fn day(p: Pointer) ?i32 {
    if (std.mem.readInt(u64, p[0..8], .little) == std.mem.readInt(u64, last_date[0..8], .little) and
        std.mem.readInt(u16, p[8..10], .little) == std.mem.readInt(u16, last_date[8..10], .little)) return last_day;
    return another_day(p);
}

fn another_day(p: Pointer) ?i32 {
    if (!alike(p, "0000-00-") or !digit(p[8]) or !digit(p[9])) return null;
    const year = pair(p) * 100 + pair(p + 2);
    const month = pair(p + 5);
    const number = pair(p + 8);
    const leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0);
    const lengths = [12]u8{ 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    if (year == 0 or month == 0 or month > 12 or number == 0) return null;
    if (number > lengths[month - 1] + @as(u32, @intFromBool(leap and month == 2))) return null;
    // Years begin in March here, so that the day that comes every four years is the last of one.
    const y: i32 = @as(i32, @intCast(year)) - @intFromBool(month <= 2);
    const m: i32 = @intCast((month + 9) % 12);
    const century = @divTrunc(y, 100);
    const days = 365 * y + @divTrunc(y, 4) - century + @divTrunc(century, 4) + @divTrunc(153 * m + 2, 5) + @as(i32, @intCast(number)) - 1 - 719468;
    last_date = p[0..10].*;
    last_day = days;
    return days;
}

const Clock = struct { seconds: i64, fraction: i64, end: Pointer };

/// A time of day as HH:MM:SS, with digits of a second or not: no more of them than `scale`, but for zeros.
inline fn clock(p: Pointer, scale: u32) ?Clock {
    if (!alike(p, "00:00:00")) return null;
    const hour, const minute, const second = .{ pair(p), pair(p + 3), pair(p + 6) };
    if (hour > 23 or minute > 59 or second > 59) return null;
    var end = p + 8;
    var fraction: i64 = 0;
    var digits: u32 = 0;
    if (end[0] == '.') {
        end += 1;
        const first = Digits.at(end);
        if (first.count == 0) return null;
        if (first.count < 8 and first.count <= scale) {
            fraction = @intCast(first.number);
            digits = first.count;
            end += digits;
        } else while (digit(end[0])) : (end += 1) {
            if (digits < scale) {
                fraction = fraction * 10 + (end[0] - '0');
                digits += 1;
            } else if (end[0] != '0') return null;
        }
    }
    fraction *= units[scale - digits];
    return .{ .seconds = hour * 3600 + minute * 60 + second, .fraction = fraction, .end = end };
}

const units = [10]i64{ 1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000 };

/// An instant, in units of the column since 1970: one without a zone is in UTC.
fn timestamp(c: *Column, row: u32, p: Pointer) ?Pointer {
    const days = day(p) orelse return null;
    if (p[10] != 'T' and p[10] != ' ') return null;
    const time = clock(p + 11, c.scale) orelse return null;
    var end = time.end;
    var seconds = @as(i64, days) * 86400 + time.seconds;
    if (end[0] == 'Z') {
        end += 1;
    } else if (end[0] == '+' or end[0] == '-') {
        if (!digit(end[1]) or !digit(end[2]) or pair(end + 1) > 14) return null;
        var away: i64 = pair(end + 1) * 3600;
        const west = end[0] == '-';
        end += 3;
        if (end[0] == ':') {
            if (!digit(end[1]) or !digit(end[2]) or pair(end + 1) > 59) return null;
            away += pair(end + 1) * 60;
            end += 3;
        }
        seconds = if (west) seconds + away else seconds - away;
    }
    // Nanoseconds reach from 1677 to 2262.
    if (c.scale == 9 and (seconds < -9_200_000_000 or seconds > 9_200_000_000)) return null;
    slots(i64, c)[row] = seconds * units[c.scale] + time.fraction;
    return end;
}

fn date_value(c: *Column, row: u32, p: Pointer) ?Pointer {
    slots(i32, c)[row] = day(p) orelse return null;
    return p + 10;
}

fn time_value(c: *Column, row: u32, p: Pointer) ?Pointer {
    const time = clock(p, c.scale) orelse return null;
    slots(i64, c)[row] = time.seconds * units[c.scale] + time.fraction;
    return time.end;
}

/// Whether it is a UUID as DuckDB writes one.
fn is_uuid(p: Pointer) bool {
    for (0..36) |i| {
        const c = p[i];
        const fits = if (i == 8 or i == 13 or i == 18 or i == 23) c == '-' else digit(c) or c -% 'a' < 6;
        if (!fits) return false;
    }
    return true;
}

// -- what is not of any column ----------------------------------------------------------------------------------------------

/// Behind any value that is JSON; null for what is none, has more than 64 brackets within each other, or, `exact`, a number that a
/// DOUBLE may not hold.
fn skip(from: Pointer, end: Pointer, depth: u32, exact: bool) ?Pointer {
    var p = from;
    switch (p[0]) {
        '"' => {
            var high = false;
            const close = special(p + 1, &high);
            if (close[0] != '"' or high) return text(p, p, end, null);
            return close + 1;
        },
        't' => return word(p, "true"),
        'f' => return word(p, "false"),
        'n' => return word(p, "null"),
        '[', '{' => {
            if (depth == 64) return null;
            const object = p[0] == '{';
            const closing: u8 = if (object) '}' else ']';
            p = blank(p + 1);
            if (p[0] == closing) return p + 1;
            while (true) {
                if (object) {
                    if (p[0] != '"') return null;
                    p = blank(skip(p, end, depth, exact) orelse return null);
                    if (p[0] != ':') return null;
                    p = blank(p + 1);
                }
                p = blank(skip(p, end, depth + 1, exact) orelse return null);
                if (p[0] == closing) return p + 1;
                if (p[0] != ',') return null;
                p = blank(p + 1);
            }
        },
        else => {
            const n = Number.at(p) orelse return null;
            return if (exact and (n.exponential or n.count > 15)) null else n.end;
        },
    }
}
