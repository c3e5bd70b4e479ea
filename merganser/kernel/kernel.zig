//! The compiled parts of merganser: all that they export is in one module.
comptime {
    _ = @import("objects.zig");
    _ = @import("ids.zig");
}
