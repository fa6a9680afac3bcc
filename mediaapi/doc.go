// Package mediaapi is the content repository: uploads, downloads and thumbnails
// of local and remote media.
//
// Bytes are stored once, under their SHA-256: the same picture sent to ten rooms
// is stored once. They are in files, or in the database (blobs), so that all
// processes on it have them and none takes them along when it dies. Rows give
// them their names (server, media ID), and a row is committed with its bytes or
// after them: bytes without a row are garbage that a sweep removes, never a
// broken link. Nothing is held in memory whole except an image while it is
// scaled, and of those only as many as a semaphore allows; how large an image
// may be is read from its header first.
//
// Remote media is fetched once, however many clients ask a process at the same
// time, and kept as a cache. A download that waits for an upload hears of it on
// the bus, and looks once a second in case it did not.
package mediaapi
