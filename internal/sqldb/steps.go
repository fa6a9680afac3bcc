package sqldb

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
)

// Lock is a place in the order in which the transactions of a group take row locks: by class, then by key. What
// the classes are is for those to say who use the group. The zero Lock comes before all others.
type Lock struct {
	Class int
	Key   string // compared byte by byte
}

func (l Lock) compare(o Lock) int {
	return cmp.Or(cmp.Compare(l.Class, o.Class), cmp.Compare(l.Key, o.Key))
}

// Step is a part of a write.
type Step struct {
	// Lock is the first that Run waits for, and those that it takes beyond must come before the Lock of the next step, or
	// be such that nobody waits for them who does not hold this one.
	Lock Lock
	Run  func(tx *Tx) error
}

// Steps is Update for a write that takes several locks for which others wait too, in ascending order. On Postgres the
// steps of all writes in a transaction run in the order of their locks: two processes that write the same
// rows then wait for each other, but never in a circle. A write whose first step fails drops out alone; one
// that fails later makes the others run again without it, and then has a transaction of its own. On SQLite, which has one
// writer, the steps of a write run one after another.
func (g *Group) Steps(ctx context.Context, steps ...Step) error {
	if g.db.dialect == SQLite || len(steps) == 0 {
		return g.Update(ctx, inTurn(steps))
	}
	return g.do(ctx, steps)
}

// inTurn makes one function of steps.
func inTurn(steps []Step) func(tx *Tx) error {
	if len(steps) == 1 {
		return steps[0].Run
	}
	return func(tx *Tx) error {
		for _, s := range steps {
			if err := s.Run(tx); err != nil {
				return err
			}
		}
		return nil
	}
}

// turns is a heap of the jobs of a batch by the lock of their next step, then by when they came.
type turns []turn

type turn struct {
	lock   Lock
	number int
	job    *job
}

func (t turns) Len() int { return len(t) }
func (t turns) Less(i, j int) bool {
	return cmp.Or(t[i].lock.compare(t[j].lock), cmp.Compare(t[i].number, t[j].number)) < 0
}
func (t turns) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t *turns) Push(x any)   { *t = append(*t, x.(turn)) }
func (t *turns) Pop() any {
	last := (*t)[len(*t)-1]
	*t = slices.Delete(*t, len(*t)-1, len(*t))
	return last
}

func (t *turns) add(j *job, number int) {
	heap.Push(t, turn{lock: j.steps[j.next].Lock, number: number, job: j})
}

func (t *turns) next() (turn, bool) {
	if len(*t) == 0 {
		return turn{}, false
	}
	return heap.Pop(t).(turn), true
}
