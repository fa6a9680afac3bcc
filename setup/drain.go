package setup

import (
	"context"
	"time"

	"weft/internal/cluster"
)

// drainTime bounds how long telling the other processes may take.
const drainTime = 5 * time.Second

// awaitStop returns when the server is to stop: with nil when it was told to, with the cause when a part of it failed. From then
// on /health says so, and what this process owned belongs to the others.
func (s *Server) awaitStop(ctx context.Context, failed <-chan error) (cause error) {
	select {
	case <-ctx.Done():
		s.log.Info("stopping")
	case cause = <-failed:
	case cause = <-s.listening.failed:
	}
	s.stopping.Store(true)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := s.cluster.Drain(limit); err != nil {
		s.log.WithError(err).Warn("the other processes were not told that this one stops; they will find out")
	}
	return cause
}

// linger answers requests as before for as long as balancers may take to see from /health that they shall send no more. Were
// the listeners closed at once, each would find out by a request that fails. It ends early when nobody is left who
// could take over, or a part of the server fails, which it returns.
func (s *Server) linger(failed <-chan error) error {
	delay := time.Duration(s.cfg.ShutdownDelay)
	if delay == 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for said := false; ; said = true {
		changed := s.cluster.Changed()
		if !otherStays(s.cluster) {
			return nil
		}
		if !said {
			s.log.WithField("for", delay).Info("answering requests until balancers have noticed; a second signal stops at once")
			s.listening.end()
		}
		select {
		case <-timer.C:
			return nil
		case <-changed:
		case err := <-failed:
			return err
		case err := <-s.listening.failed:
			return err
		}
	}
}

// otherStays tells whether another process is there that was not told to stop.
func otherStays(c *cluster.Cluster) bool {
	self := c.Self().ID
	for _, n := range c.Nodes() {
		if n.ID != self && !n.Leaving {
			return true
		}
	}
	return false
}
