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
		hours := int(deadFor / time.Hour)
		w.behind(s, behindRow{one, 0, hours - 1, 0}, behindRow{two, 0, 3, 0})
		if n := keep(); n != 0 {
			t.Errorf("%d removed of servers that may come back", n)
		}
		w.behind(s, behindRow{one, 0, hours, 0})
		if n := keep(); n != 2 {
			t.Errorf("%d removed, want those of one server", n)
		}
		if left, err := s.out.store.listEDUs(w.ctx(), two, 10); err != nil || len(left) != 2 {
			t.Errorf("the other has %d (%v)", len(left), err)
		}
	})
}
