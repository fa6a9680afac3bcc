package syncapi

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"weft/internal/clientevent"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// maxTimeout bounds the time that a request may sleep.
const maxTimeout = 5 * time.Minute

// syncRequest is a request of GET /sync.
type syncRequest struct {
	user       id.User
	device     id.Device
	since      vector
	initial    bool
	filter     *filter
	fields     fieldFilter
	format     clientevent.Format
	fullState  bool
	stateAfter bool
	timeout    time.Duration
	presence   string
	foreign    *foreign // nil: the token is this process's
	// look is the read of the positions that the request was woken with, nil where it has to ask itself.
	look *positionRead
}

// foreign is what a request is to know whose token another process gave. What that process knew of typing and presence is
// not known here, so all that is known here is told; but only what is new since the request came is a reason to
// answer, or a client that goes from node to node would be answered at once each time.
type foreign struct {
	typing, presence int64 // positions when the request came
	// blank: the client believes that somebody types somewhere, and this process is too young to know where that ended, so
	// rooms that it knows nothing of are told, too.
	blank bool
}

// meet looks whose token a request brings.
func (s *Server) meet(q *syncRequest) {
	if q.initial || q.since.Node == s.node {
		return
	}
	q.foreign = &foreign{typing: s.typing.position(), presence: s.presence.position()}
	q.foreign.blank = (q.since.Told != 0 || q.since.Node == 0) && s.node != 0 && s.now().Sub(s.begun) < maxTyping
	q.since.Typing, q.since.Presence, q.since.Node = 0, 0, s.node
}

// whole tells that rooms are shown with all of their state.
func (q *syncRequest) whole() bool { return q.initial || q.fullState }

// Sync is GET /sync. Its steps:
//
//  1. read the parameters and the filter;
//  2. acknowledge: what the token says has arrived is deleted (devices.go);
//  3. choose what to tell, at one point in all streams (plan.go);
//  4. write it, room by room (answer.go), or sleep until there is something.
//
// spec: client-server §6.4 (Syncing)
func (s *Server) Sync(ctx context.Context, r *httpapi.Request) (any, error) {
	s.requests.working.Add(1)
	defer s.requests.working.Add(-1)
	q, err := s.parseSync(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := s.acknowledge(ctx, q); err != nil {
		return nil, err
	}
	if err := s.presence.begin(ctx, q); err != nil {
		return nil, err
	}
	defer s.presence.end(q)
	a, err := s.answerSync(ctx, q, r.Stopping)
	if err != nil {
		return nil, err
	}
	return httpapi.Response{Stream: func(w io.Writer) error {
		s.requests.working.Add(1)
		defer s.requests.working.Add(-1)
		return a.write(ctx, w)
	}}, nil
}

func (s *Server) parseSync(ctx context.Context, r *httpapi.Request) (*syncRequest, error) {
	q := &syncRequest{user: r.Session.User, device: r.Session.Device, format: clientevent.Sync}
	var err error
	if q.fullState, err = r.QueryBool("full_state", false); err != nil {
		return nil, err
	}
	if q.stateAfter, err = r.QueryBool("use_state_after", false); err != nil {
		return nil, err
	}
	timeout, err := r.QueryInt("timeout", 0, 0, maxTimeout.Milliseconds())
	if err != nil {
		return nil, err
	}
	q.timeout = time.Duration(timeout) * time.Millisecond
	switch q.presence = r.Query().Get("set_presence"); q.presence {
	case "", presenceOnline, presenceUnavailable, presenceOffline:
	default:
		return nil, merr.InvalidParam("set_presence is none of online, unavailable and offline")
	}
	since := r.Query().Get("since")
	if q.initial = since == ""; !q.initial {
		if q.since, err = parseVector(since); err != nil {
			return nil, err
		}
		s.meet(q)
	}
	if q.filter, err = s.syncFilter(ctx, q.user, r.Query().Get("filter")); err != nil {
		return nil, err
	}
	q.fields = newFieldFilter(q.filter.EventFields)
	if q.filter.EventFormat == "federation" {
		q.format = clientevent.Federation
	}
	return q, nil
}

// syncFilter reads the filter parameter: JSON, or the ID of a stored filter.
func (s *Server) syncFilter(ctx context.Context, user id.User, param string) (*filter, error) {
	switch {
	case param == "":
		return noFilter, nil
	case strings.HasPrefix(param, "{"):
		return parseFilter([]byte(param))
	}
	raw, err := s.readFilter(ctx, user, param)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, merr.InvalidParam("there is no filter %.100q", param)
	}
	return parseFilter(raw)
}

// answerSync makes the answer, sleeping until there is something in it or the time is up. When the server stops, the time is
// up: an empty answer makes any client go on at once, elsewhere, where an error would make it wait and say so.
func (s *Server) answerSync(ctx context.Context, q *syncRequest, stopping <-chan struct{}) (*answer, error) {
	if q.whole() || q.timeout == 0 {
		return s.prepare(ctx, q)
	}
	w := s.notifier.wait(q.user)
	defer s.notifier.done(q.user, w)
	deadline := time.NewTimer(q.timeout)
	defer deadline.Stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		a, err := s.prepare(ctx, q)
		if err != nil || !a.empty() {
			return a, err
		}
		look, over, err := s.sleep(ctx, w.woken, poll.C, deadline.C, stopping)
		switch {
		case err != nil:
			return nil, err
		case over:
			return a, nil
		}
		q.look = look
	}
}

// sleep waits until something may have happened, and gives the look that shows it where one is known. over: the time is up.
func (s *Server) sleep(ctx context.Context, woken <-chan *positionRead, poll, deadline <-chan time.Time, stopping <-chan struct{}) (look *positionRead, over bool, err error) {
	s.requests.working.Add(-1)
	defer s.requests.working.Add(1)
	s.requests.asleep.Add(1)
	defer s.requests.asleep.Add(-1)
	select {
	case look = <-woken:
	case <-poll:
	case <-deadline:
		return nil, true, nil
	case <-stopping:
		return nil, true, nil
	case <-ctx.Done():
		return nil, false, fmt.Errorf("waiting for something to happen: %w", context.Cause(ctx))
	}
	return look, false, nil
}
