//! Ids that are texts: a hash of each, and of those of UUIDs their 16 bytes.
const std = @import("std");

const Bytes = @Vector(16, u8);
const Hash = std.hash.XxHash64;

/// Hash `count` texts, which stand one behind another from `offsets[i]` to `offsets[i + 1]`, and read them as UUIDs in the one way
/// in which DuckDB writes them: `01234567-89ab-cdef-0123-456789abcdef`. Returns how many of them are such. The hash of a text
/// depends on nothing but the text.
export fn ids(texts: [*]const u8, offsets: [*]const u32, count: u32, out: [*]align(1) Bytes, hashes: [*]u64) u32 {
    var found: u32 = 0;
    for (out, hashes, offsets, offsets[1 .. count + 1]) |*to, *hash, begin, end| {
        if (end - begin == 36) {
            if (uuid(texts[begin..][0..36])) |bytes| {
                to.* = bytes;
                hash.* = Hash.hash(0, std.mem.asBytes(&bytes));
                found += 1;
                continue;
            }
        }
        hash.* = Hash.hash(1, texts[begin..end]);
    }
    return found;
}

inline fn uuid(text: *const [36]u8) ?Bytes {
    if (text[8] != '-' or text[13] != '-' or text[18] != '-' or text[23] != '-') return null;
    const a: Bytes = text[0..16].*;
    const b: Bytes = text[16..32].*;
    const c: Bytes = text[20..36].*;
    const left = digits(@shuffle(u8, a, b, [16]i32{ 0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, ~@as(i32, 0), ~@as(i32, 1) })) orelse return null;
    const right = digits(@shuffle(u8, c, b, [16]i32{ ~@as(i32, 3), 0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 })) orelse return null;
    const even = [16]i32{ 0, 2, 4, 6, 8, 10, 12, 14, ~@as(i32, 0), ~@as(i32, 2), ~@as(i32, 4), ~@as(i32, 6), ~@as(i32, 8), ~@as(i32, 10), ~@as(i32, 12), ~@as(i32, 14) };
    const odd = [16]i32{ 1, 3, 5, 7, 9, 11, 13, 15, ~@as(i32, 1), ~@as(i32, 3), ~@as(i32, 5), ~@as(i32, 7), ~@as(i32, 9), ~@as(i32, 11), ~@as(i32, 13), ~@as(i32, 15) };
    return @shuffle(u8, left, right, even) << @as(@Vector(16, u3), @splat(4)) | @shuffle(u8, left, right, odd);
}

/// The values of 16 hexadecimal digits, in lower case.
inline fn digits(text: Bytes) ?Bytes {
    const number = text -% @as(Bytes, @splat('0'));
    const letter = text -% @as(Bytes, @splat('a'));
    const is_number = number < @as(Bytes, @splat(10));
    const is_letter = letter < @as(Bytes, @splat(6));
    if (!@reduce(.And, @select(bool, is_number, is_number, is_letter))) return null;
    return @select(u8, is_number, number, letter +% @as(Bytes, @splat(10)));
}
