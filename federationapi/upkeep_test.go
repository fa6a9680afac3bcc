package federationapi

import (
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

func TestEDUsDoNotWaitForADeadServer(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open())
		s := w.server(newNetwork(), patientLimits())
		w.edu(s, "m.x", 1, true, "", one, two)
		w.edu(s, "m.x", 2, true, "", one, two)
		keep := func() int64 {
			t.Helper()
			n, err := s.upkeep()[0].Run(w.ctx())
			w.ok(err)
			return n
		}
		hours, long := int(deadFor/time.Hour), time.Now().Add(-deadFor-time.Minute).UnixMilli()
		for _, alive := range [][]behindRow{
			{{one, 0, hours - 1, 0, long}, {two, 0, 3, 0, long}},        // not tried all the time
			{{one, 0, 100 * hours, 0, time.Now().UnixMilli()}},          // we hear from it, so it is tried each second
			{{one, 0, 100 * hours, 0, long + time.Hour.Milliseconds()}}, // the same, almost long enough
		} {
			w.behind(s, alive...)
			if n := keep(); n != 0 {
				t.Errorf("%d removed of servers that may come back: %v", n, alive)
			}
		}
		w.behind(s, behindRow{one, 0, hours, 0, long})
		if n := keep(); n != 2 {
			t.Errorf("%d removed, want those of one server", n)
		}
		if left, err := s.out.store.listEDUs(w.ctx(), two, 10); err != nil || len(left) != 2 {
			t.Errorf("the other has %d (%v)", len(left), err)
		}
	})
}
