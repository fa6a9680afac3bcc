package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"weft/test/bench/load"
	"weft/test/bench/proc"
	"weft/test/bench/remote"
)

// Target is a homeserver under load.
type Target struct {
	Name   string
	URL    string
	Client *load.Client
	// Further are the other processes of a server of several. Users take turns in which one they talk to, and stay with it, as
	// behind a balancer that looks at connections.
	Further []*load.Client
	// ServerName is the homeserver's name in user IDs; empty: not told.
	ServerName string
	// Secret is the registration secret; empty: registration is open.
	Secret string
	// Federation leads synthetic servers to the target; nil: it is not known how.
	Federation *Federation
	// Server and Database are the process trees; nil: not to be seen from here.
	Server, Database *proc.Tree
	// Embedded says that the server holds its database itself, so that the database has no processes.
	Embedded bool
	// Disk measures the database's bytes on disk; nil: not to be seen from here.
	Disk func(ctx context.Context) (int64, error)
	// Admin is the base URL of Go's profiles; empty: there is none. FurtherAdmins are those of the other processes.
	Admin         string
	FurtherAdmins []string
}

// clients are those of all processes of the server.
func (t *Target) clients() []*load.Client {
	return append([]*load.Client{t.Client}, t.Further...)
}

// shed counts the requests that the server refused so far.
func (t *Target) shed() (n int64) {
	for _, c := range t.clients() {
		n += c.Shed()
	}
	return n
}

// Federation is how a target and synthetic servers reach each other.
type Federation struct {
	// Address is HOST:PORT of the target's server–server API.
	Address string
	// Authority signs the certificates of synthetic servers; the target trusts it.
	Authority *remote.Authority
	// Servers is how many server names a synthetic server goes by.
	Servers int
}

// Sizes say how much of everything a run does.
type Sizes struct {
	Senders, Rooms, Messages, ContentBytes int
	LatencyMessages                        int
	FewRooms, ManyRooms                    int
	InitialSyncs, EmptySyncs, OneSyncs     int
	CreateRooms                            int
	JoinRooms, JoinUsers                   int
	FanoutUsers, FanoutMessages            int
	HistoryMessages, HistoryReaders        int
	KeyUsers                               int
	MediaFiles, MediaBytes                 int
	OverloadRequests                       int
	RemoteMembers, RemoteMany              int
	RemoteEvents, RemoteMessages           int
	ScaleRooms, ScaleUsers, ScaleRequests  int
	Idle, ScaleTime                        time.Duration
}

// DefaultSizes make a run of a few minutes.
func DefaultSizes() Sizes {
	return Sizes{
		Senders: 8, Rooms: 4, Messages: 20000, ContentBytes: 300, LatencyMessages: 500,
		FewRooms: 50, ManyRooms: 2000, InitialSyncs: 20, EmptySyncs: 4000, OneSyncs: 400,
		CreateRooms: 400, JoinRooms: 30, JoinUsers: 20,
		FanoutUsers: 200, FanoutMessages: 20, HistoryMessages: 4000, HistoryReaders: 4,
		KeyUsers: 20, MediaFiles: 60, MediaBytes: 256 << 10, OverloadRequests: 3000,
		RemoteMembers: 10_000, RemoteMany: 100_000, RemoteEvents: 2000, RemoteMessages: 500,
		ScaleRooms: 40, ScaleUsers: 40, ScaleRequests: 640, Idle: 10 * time.Second, ScaleTime: 10 * time.Second,
	}
}

// Check refuses sizes of nothing, which no scenario is made for.
func (s Sizes) Check() error {
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if n := v.Field(i); n.Int() < 1 {
			return fmt.Errorf("size %s must be at least 1", v.Type().Field(i).Name)
		}
	}
	return nil
}

// Env is what a scenario works with: the target, the sizes, users, and the rows that it made.
type Env struct {
	Target *Target
	Sizes  Sizes
	// ProfileDir is where profiles of each window go; empty: none are taken.
	ProfileDir string
	// Log is told what goes on.
	Log io.Writer

	crowd []*load.User
	count atomic.Int64
	run   string
	rows  []*Row
	// remotes are the synthetic servers so far. They live as long as the Env, because the target goes on talking to them.
	remotes []*remote.Server
	// inflowRoom is made by resident.
	inflowRoom *remoteRoom
}

// NewEnv prepares a target. Its users are named after run, which tells runs against one server apart.
func NewEnv(t *Target, s Sizes, run string, log io.Writer) *Env {
	return &Env{Target: t, Sizes: s, run: run, Log: log}
}

// Close ends what scenarios started.
func (e *Env) Close() error {
	for _, c := range e.Target.clients() {
		c.Close()
	}
	var errs []error
	for _, s := range e.remotes {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// TakeRows gives the rows made since the last call.
func (e *Env) TakeRows() []*Row {
	rows := e.rows
	e.rows = nil
	return rows
}

func (e *Env) logf(format string, args ...any) {
	_, _ = fmt.Fprintf(e.Log, "%s: %s\n", e.Target.Name, fmt.Sprintf(format, args...)) // progress only
}

// registrations is how many accounts are made at a time: more only queue for the server's password hashing.
const registrations = 4

// fresh makes users who never did anything.
func (e *Env) fresh(ctx context.Context, n int) ([]*load.User, error) {
	users := make([]*load.User, n)
	clients := e.Target.clients()
	err := parallel(ctx, registrations, n, func(ctx context.Context, _, i int) (err error) {
		users[i], err = clients[i%len(clients)].Register(ctx, "b"+e.run+"u"+strconv.FormatInt(e.count.Add(1), 10), e.Target.Secret)
		return err
	})
	return users, err
}

// users gives n users whose past does not matter; scenarios share them, because registration is dear.
func (e *Env) users(ctx context.Context, n int) ([]*load.User, error) {
	if missing := n - len(e.crowd); missing > 0 {
		more, err := e.fresh(ctx, missing)
		if err != nil {
			return nil, err
		}
		e.crowd = append(e.crowd, more...)
	}
	return e.crowd[:n], nil
}

// parallel calls do(worker, i) for each i below n, as many at a time as there are workers. The first error ends it.
func parallel(ctx context.Context, workers, n int, do func(ctx context.Context, worker, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wait sync.WaitGroup
	for w := range min(workers, n) {
		wait.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				if err := do(ctx, w, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

// each calls do for every item at the same time. The first error ends it.
func each[T any](ctx context.Context, items []T, do func(ctx context.Context, i int, item T) error) error {
	return parallel(ctx, len(items), len(items), func(ctx context.Context, _, i int) error { return do(ctx, i, items[i]) })
}
