package upkeep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"weft/internal/sqldb"
)

// Task removes rows of one kind.
type Task struct {
	// Kind names what is removed: a word or two, in the metrics' form ("client_txns").
	Kind string
	// Every is the time between two runs. The first comes soon after the start.
	Every time.Duration
	// Local is for what each process has of its own, such as files: it does the work whoever owns the kind.
	Local bool
	// Run removes what has had its time and says how much that was, also where it fails.
	Run func(ctx context.Context) (removed int64, err error)
}

// Config is what a Keeper needs.
type Config struct {
	DB  *sqldb.DB
	Log logrus.FieldLogger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Owns tells whether a kind of a component is for this process to remove, of those on one database that run
	// the component; nil: all are. Two that think so do the same work twice, and no harm.
	Owns func(component, kind string) bool
}

const (
	// firstAfter is how long after the start a task is run first, so that a server that
	// is restarted often does its upkeep too, but not while it starts.
	firstAfter = 5 * time.Minute
	// shrinkEvery is how often the files of SQLite are looked at.
	shrinkEvery = time.Minute
	// keepFree and keepShare tell how much of a SQLite file may be free: what was freed
	// will mostly be needed again, and to cut the file and make it longer again costs.
	keepFree  = 1 << 20
	keepShare = 20 // one twentieth
	// walLimit is the size of SQLite's write-ahead log from which it is emptied by force.
	walLimit = 64 << 20
)

// Keeper runs tasks. A nil Keeper takes tasks and never runs them: for tests of components.
type Keeper struct {
	*keeper
	component string // whose tasks are added
}

type keeper struct {
	cfg     Config
	removed *prometheus.CounterVec
	failed  *prometheus.CounterVec
	took    *prometheus.CounterVec

	mu    sync.Mutex
	tasks []*scheduled
}

type scheduled struct {
	Task
	component string
	due       time.Time
}

// Of gives the Keeper to a component, whose tasks are divided among the processes that run it.
func (k *Keeper) Of(component string) *Keeper { return &Keeper{k.keeper, component} }

// New makes a Keeper without tasks.
func New(cfg Config) (*Keeper, error) {
	const ns, sub = "weft", "upkeep"
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, []string{"kind"})
	}
	k := &keeper{cfg: cfg,
		removed: counter("removed_total", "Rows (or files) removed because their time has passed, by kind."),
		failed:  counter("failures_total", "Runs of upkeep that failed, by kind."),
		took:    counter("seconds_total", "Time that upkeep took, pauses included, by kind."),
	}
	if cfg.Metrics == nil {
		return &Keeper{keeper: k}, nil
	}
	for _, c := range []prometheus.Collector{k.removed, k.failed, k.took} {
		if err := cfg.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("upkeep: %w", err)
		}
	}
	return &Keeper{keeper: k}, nil
}

// Add adds tasks. It comes before Run.
func (k *Keeper) Add(tasks ...Task) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range tasks {
		k.tasks = append(k.tasks, &scheduled{Task: t, component: k.component})
		for _, c := range []*prometheus.CounterVec{k.removed, k.failed, k.took} {
			c.WithLabelValues(t.Kind) // a rate over a counter needs its zero
		}
	}
}

// Count counts what a task removed beside its own kind.
func (k *Keeper) Count(kind string, n int64) {
	if k != nil {
		k.removed.WithLabelValues(kind).Add(float64(n))
	}
}

// Run runs tasks when they are due, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	now := time.Now()
	list := k.list()
	for _, t := range list {
		t.due = now.Add(min(firstAfter, t.Every))
	}
	shrink := now.Add(shrinkEvery)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := shrink
		for _, t := range list {
			if t.due.Before(next) {
				next = t.due
			}
		}
		timer.Reset(time.Until(next))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		for _, t := range list {
			if ctx.Err() == nil && !t.due.After(time.Now()) {
				if t.Local || k.cfg.Owns == nil || k.cfg.Owns(t.component, t.Kind) {
					k.run(ctx, t.Task)
				}
				t.due = time.Now().Add(t.Every)
			}
		}
		if !shrink.After(time.Now()) {
			k.logged(ctx, "shrink", k.Shrink(ctx))
			shrink = time.Now().Add(shrinkEvery)
		}
	}
}

// RunAll runs every task once, whether it is due or not, and shrinks the files: for tests
// and measurements. It returns what went wrong.
func (k *Keeper) RunAll(ctx context.Context) error {
	var errs []error
	for _, t := range k.list() {
		errs = append(errs, k.run(ctx, t.Task))
	}
	return errors.Join(append(errs, k.Shrink(ctx))...)
}

func (k *Keeper) list() []*scheduled {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.tasks)
}

func (k *Keeper) run(ctx context.Context, t Task) error {
	began := time.Now()
	n, err := t.Run(ctx)
	k.took.WithLabelValues(t.Kind).Add(time.Since(began).Seconds())
	k.removed.WithLabelValues(t.Kind).Add(float64(n))
	if n > 0 {
		k.cfg.Log.WithField("kind", t.Kind).WithField("removed", n).Debug("upkeep")
	}
	return k.logged(ctx, t.Kind, err)
}

func (k *Keeper) logged(ctx context.Context, kind string, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	k.failed.WithLabelValues(kind).Inc()
	k.cfg.Log.WithError(err).WithField("kind", kind).Error("upkeep failed")
	return fmt.Errorf("upkeep of %s: %w", kind, err)
}

// Shrink gives back what of a SQLite file and its write-ahead log is free beyond some
// reserve. PostgreSQL cleans up after itself.
func (k *Keeper) Shrink(ctx context.Context) error {
	size, err := k.cfg.DB.Size(ctx)
	if err != nil {
		return err
	}
	if err := k.cfg.DB.Vacuum(ctx, max(keepFree, size/keepShare)); err != nil {
		return err
	}
	return k.cfg.DB.TruncateWAL(ctx, walLimit)
}
