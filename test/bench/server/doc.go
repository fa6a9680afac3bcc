// Package server starts what the load driver measures, in temporary folders that it removes, and measures databases on disk.
package server
