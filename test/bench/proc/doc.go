// Package proc tells what processes cost: CPU time of a process tree, resident memory and its peak, and it puts a server into a
// cgroup. It reads Linux's /proc; elsewhere, and where a process is not to be seen, it says ErrUnavailable, and the table says
// n/a.
//
// A tree is a process and its descendants. The CPU time of children that ended counts too, once their parent has waited for
// them: a PostgreSQL server is a parent of one process per connection, and those come and go.
package proc
