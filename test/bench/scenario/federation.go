package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"weft/matrix/event"
	"weft/matrix/id"
	"weft/test/bench/load"
	"weft/test/bench/remote"
)

const (
	// remoteTime bounds a join of a large room, and the processing of an inflow.
	remoteTime = 15 * time.Minute
	// remoteSettle is how long the work that such a thing leaves behind may go on.
	remoteSettle = time.Minute
	// agreePause is between two looks at the state of both servers.
	agreePause = time.Second
	// largeChanges is how often each user of join-large joins or leaves, in turns; the last time it leaves.
	largeChanges = 10
	// inflowVersion is the version of the room that events flow into and out of.
	inflowVersion = "12"
	// branches and branchLength are the shape of a branchy inflow: as many branches of as many events each, then a merge.
	branches, branchLength = 5, 10
)

// lacksFederation says why a target cannot be measured with the synthetic server.
func lacksFederation(t *Target) string {
	if t.Federation == nil || t.ServerName == "" {
		return "it is not said where its federation is (server-name and federation of --target)"
	}
	return ""
}

// remoteRoom is a room of the synthetic server that a user of the target is in.
type remoteRoom struct {
	*remote.Room
	server *remote.Server
	user   *load.User
	join   remote.Join
}

// remoteJoin measures joining a room of many members that the target knows nothing of.
func remoteJoin(ctx context.Context, e *Env, members int, version event.RoomVersion) error {
	m := e.meter(fmt.Sprintf("remote-join-%d-v%s", members, version))
	m.settleMax = remoteSettle
	r, err := e.joinRemote(ctx, m, members, version)
	if err != nil {
		return err
	}
	m.Fail(r.CheckState(ctx, r.get))
	m.Fail(r.CheckResident(ctx, id.Server(e.Target.ServerName), r.join.Event))
	return nil
}

// joinRemote makes a room and joins it, which is measured.
func (e *Env) joinRemote(ctx context.Context, m *Meter, members int, version event.RoomVersion) (*remoteRoom, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTime)
	defer cancel()
	users, err := e.fresh(ctx, 1)
	if err != nil {
		return nil, err
	}
	server, err := e.newRemote(ctx)
	if err != nil {
		return nil, err
	}
	room, err := server.NewRoom(ctx, remote.RoomOptions{Version: version, Members: members})
	if err != nil {
		return nil, err
	}
	r := &remoteRoom{Room: room, server: server, user: users[0]}
	m.weigh(ctx)
	m.start(ctx)
	m.Do(func() error { return r.user.JoinVia(ctx, string(room.ID), string(server.Name())) })
	if m.row.Errors == 0 {
		r.join, err = room.AwaitJoin(ctx, id.User(r.user.ID))
	} else {
		err = errors.New("the join failed")
	}
	m.stop(ctx)
	m.finish()
	events, _ := room.Size()
	m.grown(ctx, events)
	r.failProblems(m, 0)
	return r, err
}

// newRemote starts a synthetic server with names that the target has never heard of: whoever it met before is cheaper.
func (e *Env) newRemote(ctx context.Context) (*remote.Server, error) {
	f := e.Target.Federation
	s, err := remote.Serve(context.WithoutCancel(ctx), remote.Options{Servers: f.Servers, Authority: f.Authority, InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	s.Route(id.Server(e.Target.ServerName), f.Address)
	e.remotes = append(e.remotes, s)
	return s, nil
}

// failProblems counts what the synthetic server found wrong with the target, beyond what it had found before.
func (r *remoteRoom) failProblems(m *Meter, before int) {
	for _, p := range r.server.Problems()[before:] {
		m.Fail(fmt.Errorf("the remote server: %s", p))
	}
}

// get is how the checks of a remote room ask the target.
func (r *remoteRoom) get(ctx context.Context, path string) (int, io.ReadCloser, error) {
	return r.user.Stream(ctx, path)
}

// resident gives a remote room that the target is in, which scenarios of events share.
func (e *Env) resident(ctx context.Context) (*remoteRoom, error) {
	if e.inflowRoom != nil {
		return e.inflowRoom, nil
	}
	m := e.meter("join")
	m.hidden = true
	r, err := e.joinRemote(ctx, m, e.Sizes.RemoteMembers, inflowVersion)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", err, m.row.Failures)
	}
	e.inflowRoom = r
	return r, nil
}

// inflow measures events that come in transactions of the synthetic server, until a client can see the last of them. An operation is
// an event; latencies are those of transactions.
func inflow(ctx context.Context, e *Env, name string, build func(*remote.Room, int) (*remote.Inflow, error)) error {
	r, err := e.resident(ctx)
	if err != nil {
		return err
	}
	f, err := build(r.Room, e.Sizes.RemoteEvents)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, remoteTime)
	defer cancel()
	problems := len(r.server.Problems())
	m := e.meter(name)
	m.settleMax = remoteSettle
	m.weigh(ctx)
	m.start(ctx)
	sent, err := r.server.Send(ctx, id.Server(e.Target.ServerName), f.Events)
	if err == nil {
		err = r.AwaitEvent(ctx, r.get, f.Last())
	}
	m.row.Operations = len(f.Events)
	m.stop(ctx)
	if sent != nil {
		m.row.Shed += int64(sent.Shed)
		for _, d := range sent.Latencies {
			m.Latency(d)
		}
	}
	m.finish()
	if err != nil {
		return err
	}
	m.grown(ctx, m.row.Operations)
	m.Fail(r.CheckState(ctx, r.get))
	m.Fail(r.CheckMessages(ctx, r.get, f))
	r.failProblems(m, problems)
	return nil
}

// outflow measures messages of the target's user until the synthetic server has them. They are sent one after the other; each
// must arrive, but the last ones need not have before the sender goes on.
func outflow(ctx context.Context, e *Env) error {
	r, err := e.resident(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, remoteTime)
	defer cancel()
	problems := len(r.server.Problems())
	began := make([]time.Time, e.Sizes.RemoteMessages)
	events := make([]string, len(began))
	m := e.meter("outflow")
	m.settleMax = remoteSettle
	m.start(ctx)
	for n := range events {
		began[n] = time.Now()
		if events[n], err = r.user.Send(ctx, string(r.ID), message(0, n, e.Sizes.ContentBytes)); err != nil {
			m.Fail(err)
		}
	}
	for n, sent := range events {
		if sent == "" {
			continue
		}
		at, err := r.Received(ctx, id.Event(sent))
		m.Took(at.Sub(began[n]), err)
	}
	m.stop(ctx)
	m.finish()
	r.failProblems(m, problems)
	return ctx.Err()
}

// joinLarge measures joining and leaving a room of very many members that the server is in already, which other servers are told
// of. An operation is a change of membership.
func joinLarge(ctx context.Context, e *Env) error {
	r, err := e.resident(ctx)
	if err != nil {
		return err
	}
	users, err := e.users(ctx, e.Sizes.JoinUsers)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, remoteTime)
	defer cancel()
	before, err := r.user.Joined(ctx, string(r.ID))
	if err != nil {
		return err
	}
	problems := len(r.server.Problems())
	m := e.meter("join-large")
	m.settleMax = remoteSettle
	m.weigh(ctx)
	m.start(ctx)
	err = parallel(ctx, creators, len(users), func(ctx context.Context, _, i int) error {
		for n := range largeChanges {
			m.Do(func() error {
				if n%2 == 0 {
					return users[i].Join(ctx, string(r.ID))
				}
				return users[i].Leave(ctx, string(r.ID))
			})
		}
		return ctx.Err()
	})
	m.stop(ctx)
	m.finish()
	if err != nil {
		return err
	}
	m.grown(ctx, m.row.Operations)
	after, err := r.user.Joined(ctx, string(r.ID))
	if err == nil && !maps.Equal(before, after) {
		err = fmt.Errorf("%d members before, %d when all had left again", len(before), len(after))
	}
	m.Fail(err)
	m.Fail(r.agree(ctx))
	r.failProblems(m, problems)
	return nil
}

// agree waits until the target and the synthetic server, who tell each other of their events, have the same state.
func (r *remoteRoom) agree(ctx context.Context) error {
	deadline := time.Now().Add(maxDelivery)
	for {
		err := r.CheckState(ctx, r.get)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		pause(ctx, agreePause)
	}
}

// remoteJoinRow is the row of the table for joins of rooms of a version.
func remoteJoinRow(version string) Scenario {
	return Scenario{Name: "remote-join-v" + version, Doc: "joining a room of many members over federation, room version " + version,
		Lacks: lacksFederation, Federation: true,
		Run: func(ctx context.Context, e *Env) error {
			return remoteJoin(ctx, e, e.Sizes.RemoteMembers, event.RoomVersion(version))
		}}
}

// branchy makes an inflow that forks all the time.
func branchy(r *remote.Room, n int) (*remote.Inflow, error) {
	return r.Branchy(n, branches, branchLength)
}
