/* How several replicas of the service publish each digest once: a model for Spin.
 *
 * It follows alarmdigest/replication/leadership.py step by step; the comments name its functions.
 * README.md, beside this file, says what is left out, and how large the searches are.
 *
 * The input is REQUESTS requests, 1, 2, …; each makes one digest, which has the same number. The
 * output is the digest stream: digests and leader messages, at the places 1, 2, …
 *
 * Checked, each where it happens:
 *   - a digest is stored once, and never behind a later one;
 *   - a word (through, after) claims only what is stored, and who reads the output behind `after`
 *     misses nothing that belongs to later input;
 *   - a finished checkpoint claims only what is stored;
 *   - with -DSETTLE: at whatever moment the faults end, one more election is enough, and then
 *     everything is stored and the elected one knows it.
 *
 * Sets of digests are bits in a byte: digest n is the bit 1 << n.
 */

/* -- bounds: each may be set with -D ------------------------------------------------------------- */

#ifndef REPLICAS
#define REPLICAS 2              /* at most 3 */
#endif
#ifndef REQUESTS
#define REQUESTS 2              /* at most 3 */
#endif
#ifndef LINKS
#define LINKS 2                 /* connections of a replica: the one in use, and old ones; 2 or 3 */
#endif
/* How often each may happen, all replicas together. */
#ifndef ELECTIONS
#define ELECTIONS 2             /* a follower stands */
#endif
#ifndef LOSSES
#define LOSSES 1                /* a connection is lost, with or without a publish on its way */
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef RENEWALS
#define RENEWALS 0
#endif
#ifndef RESIGNATIONS
#define RESIGNATIONS 0          /* a leader steps down unasked, whatever it was doing */
#endif
#ifndef ROOM
#define ROOM REQUESTS           /* so many digests may wait at a replica */
#endif
#ifndef AHEAD
#define AHEAD REQUESTS          /* so far ahead of the input the output is read, while there is room */
#endif

#define MOST (ELECTIONS + 1 + 2 * LOSSES + RENEWALS + REQUESTS + 2)   /* places in the output */
#define ONE(n) (1 << (n))
#define UP_TO(n) ((2 << (n)) - 2)
#define LOWEST(set) ((set) & 2 -> 1 : ((set) & 4 -> 2 : ((set) & 8 -> 3 : 0)))
#define SIZE(set) ((((set) >> 1) & 1) + (((set) >> 2) & 1) + (((set) >> 3) & 1))

/* -- JetStream ----------------------------------------------------------------------------------- */

#define VOTE 16                 /* a leader message is VOTE * (its replica + 1) + its incarnation */
#define WHATEVER 99             /* the expectation of a plain publish */
#define REFUSED 255

byte output[MOST + 1];          /* what stands at a place: a digest, or 0 for a leader message */
byte tail;                      /* the last place */
byte fence, author;             /* the last leader message: its place and what it says */
byte place[REQUESTS + 1];       /* of each digest */
byte kept;                      /* the digests that are stored */

chan link[REPLICAS * LINKS] = [1] of { byte, byte };    /* a publish on its way: what, expectation */
byte used[REPLICAS];            /* which link of its a replica uses now */
byte ack[REPLICAS];             /* what came back on that one: a place, or REFUSED; 0: nothing yet */

/* What each replica has told as the leader, last: the group's stream keeps it. */
byte told_through[REPLICAS], told_after[REPLICAS];

/* -- what a killed replica finds again ------------------------------------------------------------ */

byte saved[REPLICAS], saved_through[REPLICAS], saved_after[REPLICAS];
byte incarnation[REPLICAS];

byte elections, losses, kills, renewals, resignations;
byte quiet;                     /* 0: faults; 1: no more; 2: one election is due; 3: it was; 4: judged */

hidden byte what, expected, verdict, i;     /* inside one step only */

#ifdef NO_FENCE
#define FITS (expected == WHATEVER || what < VOTE || expected == fence)
#else
#define FITS (expected == WHATEVER || expected == fence)
#endif

/* One connection to the stream's leader. What is in an old one may come late, or (LOSS) never. */
proctype Link(byte owner; byte number) {
end:
  do
  :: d_step { link[owner * LINKS + number] ? [what, expected] ->
       link[owner * LINKS + number] ? what, expected;
       if
       :: FITS ->
            tail++;
            assert(tail <= MOST);
            verdict = tail;
            if
            :: what >= VOTE -> fence = tail; author = what
            :: else ->
                 assert(place[what] == 0);              /* else it is stored twice */
                 assert(kept >> what == 0);             /* else a later one is there before it */
                 output[tail] = what; place[what] = tail; kept = kept | ONE(what)
            fi
       :: else -> verdict = REFUSED
       fi;
       if
       :: number == used[owner] -> ack[owner] = verdict
       :: else                                          /* nobody waits for it any more */
       fi;
       what = 0; expected = 0; verdict = 0 }
#ifdef LOSS
  :: d_step { number != used[owner] && nempty(link[owner * LINKS + number]) ->
       link[owner * LINKS + number] ? what, expected; what = 0; expected = 0 }
#endif
  od
}

/* -- a replica ----------------------------------------------------------------------------------- */

mtype = { follows, stands, fences, asks, reads, leads, renews };

#define MY_LINK link[me * LINKS + used[me]]
#define NEXT_LINK ((used[me] + 1) % LINKS)
#define MY_VOTE (VOTE * (me + 1) + incarnation[me])
#define MAY_LOSE (quiet == 0 && losses < LOSSES && empty(link[me * LINKS + NEXT_LINK]))

#ifdef EARLY_WORD
#define CONFIRMED(n) true
#else
#define CONFIRMED(n) ((waiting & UP_TO(n)) == 0)
#endif
#ifdef EARLY_CHECKPOINT
#define COMPLETE true
#else
#define COMPLETE (through >= cut)
#endif
/* The place behind which all lies that belongs to input not read yet. */
#ifdef AFTER_IS_THE_END
#define PLACE known
#else
#define PLACE (LOWEST(ahead) != 0 -> place[LOWEST(ahead)] - 1 : known)
#endif

inline reconnect() {
  losses++; used[me] = NEXT_LINK; ack[me] = 0; sent = 0
}

inline vote(expectation) {
  ack[me] = 0; MY_LINK ! MY_VOTE, expectation
}

inline confirm() {
  phase = fences; vote(token)
}

inline take_over(sequence) {
  token = sequence; ack[me] = 0; phase = reads; known = after;
#ifdef NO_READ_THROUGH
  goal = known
#elif defined(READ_LAGGING)
  goal = (token < 2 -> 0 : token - 2)       /* a replica of the stream that lacks the last two */
#else
  goal = token
#endif
}

inline step_down() {
  phase = follows; leader = 0; token = 0; goal = 0; sent = 0; ack[me] = 0;
  barrier = 0; barrier_after = 0;
#ifdef DROP_ON_STEP_DOWN
  waiting = 0
#endif
}

proctype Replica(byte me) {
  byte position;                /* in the input */
  byte waiting;                 /* digests that were made and are not known to be stored */
  byte ahead;                   /* digests read in the output whose requests were not read yet */
  byte through, after;          /* the newest word that it knows */
  byte known;                   /* of the output, all between `after` and here is known */
  byte goal;                    /* the leader message through which it reads */
  byte token, sent;             /* sent: the digest that is on its way, or 0 */
  mtype phase = follows;
  bit leader;                   /* Leadership.leads: also while it confirms */
  byte cut;                     /* the checkpoint that waits for the word, or 0 */
  byte barrier, barrier_after;  /* the word in the making: how far it tells, or 0; and behind what */

starts:
  atomic {
    position = saved[me]; through = saved_through[me]; after = saved_after[me] };

end:
  do
  /* -- reading the input, as leader or not -- */

  :: d_step { position < REQUESTS && SIZE(waiting) < ROOM ->
       position++;
       if
       :: (ahead & ONE(position)) != 0 -> ahead = ahead & ~ONE(position)
       :: (ahead & ONE(position)) == 0 && position <= through       /* the word tells of it */
#ifdef FOLLOWER_TRUSTS_ITS_OWN
       :: (ahead & ONE(position)) == 0 && position > through && phase == follows
#endif
       :: else -> waiting = waiting | ONE(position)
       fi }

  /* -- stand() -- */

  /* Anybody may, at any time: who suspects whom does not matter for safety. That the first one is
     replica 0 only names them. */
  :: atomic { phase == follows && empty(MY_LINK) && (me == 0 || elections != 0) &&
              (quiet == 2 || (quiet == 0 && elections < ELECTIONS)) ->
       if
       :: quiet == 2 -> quiet = 3
       :: else -> elections++
       fi;
       phase = stands; vote(WHATEVER) }
  :: atomic { phase == stands && ack[me] != 0 -> take_over(ack[me]) }
  /* No answer: another one, and the first may still be stored. Or the process is told to stop. */
  :: atomic { phase == stands && MAY_LOSE ->
       reconnect();
       if
       :: vote(WHATEVER)
       :: phase = follows
       fi }

  /* -- confirm() -- */

  :: atomic { phase == fences && ack[me] != 0 ->
       if
       :: ack[me] == REFUSED -> ack[me] = 0; phase = asks
       :: else -> take_over(ack[me])
       fi }
  :: atomic { phase == fences && MAY_LOSE -> reconnect(); phase = asks }
  :: atomic { phase == asks ->
       if
#ifdef OLD_TOKEN_WILL_DO
       :: fence == token -> take_over(token)
#else
       :: fence == token -> confirm()
#endif
       :: fence != token && author == MY_VOTE -> take_over(fence)
#ifdef ADOPT
       :: fence != token && author != MY_VOTE -> take_over(fence)
#else
       :: fence != token && author != MY_VOTE -> step_down()
#endif
       :: fence != token && quiet == 0 -> confirm()     /* no answer */
       fi }

  /* -- _take_over(): reading the output through one's own leader message -- */

  :: d_step { phase == reads && known < goal &&
              (output[known + 1] <= position + AHEAD || SIZE(waiting) >= ROOM) ->
       known++;
       i = output[known];
       if
       :: i == 0
       :: i != 0 && i <= position -> waiting = waiting & ~ONE(i)
       :: else -> ahead = ahead | ONE(i)
       fi;
       i = 0 }
  :: d_step { phase == reads && known >= goal -> phase = leads; leader = 1; goal = 0 }
  /* No answer: from the start, and that may lie further on by now. */
  :: d_step { phase == reads && quiet == 0 && known != after -> known = after }

  /* -- leading: the digests that wait, in order, one on its way at a time -- */

  :: d_step { phase == leads && sent == 0 && waiting != 0 ->
       sent = LOWEST(waiting); ack[me] = 0; MY_LINK ! sent, token }
  :: atomic { phase == leads && sent != 0 && ack[me] != 0 ->
       if
       :: ack[me] == REFUSED -> sent = 0; confirm()
       :: else ->       /* between the token and here stand own ones only, and all are answered */
            known = ack[me]; ack[me] = 0; waiting = waiting & ~ONE(sent); sent = 0
       fi }
  :: atomic { phase == leads && MAY_LOSE ->
#ifdef NO_SELF_FENCE
       /* Looks for what is there by now, and goes on under the token that it has. */
       reconnect(); phase = reads; known = after; goal = tail
#else
       reconnect(); confirm()
#endif
     }

  /* -- renew() -- */

  :: atomic { phase == leads && sent == 0 && quiet == 0 && renewals < RENEWALS ->
       renewals++; phase = renews;
#ifdef RENEW_PLAINLY
       vote(WHATEVER)
#else
       vote(token)
#endif
     }
  :: atomic { phase == renews && ack[me] != 0 ->
       if
       :: ack[me] == REFUSED -> confirm()
       :: else -> token = ack[me]; known = token; ack[me] = 0; phase = leads
       fi }
  :: atomic { phase == renews && MAY_LOSE -> reconnect(); confirm() }

  /* -- step_down(), unasked: what is on its way stays there, and its token counts -- */

  :: d_step { phase != follows && phase != stands && quiet == 0 && resignations < RESIGNATIONS ->
       resignations++; step_down() }

  /* -- hear(): any word that tells more, whoever has spoken it and whenever -- */

  :: d_step { !leader && (told_through[0] > through || told_through[1] > through
#if REPLICAS > 2
              || told_through[2] > through
#endif
             ) ->
       i = 0;
       do
       :: told_through[i] <= through -> i++
       :: else -> break
       od;
       through = told_through[i]; after = told_after[i]; i = 0;
       waiting = waiting & ~UP_TO(through); ahead = ahead & ~UP_TO(through) }

  /* -- speak(): a barrier passes the publisher; the word is spoken when all before it is stored -- */

  :: d_step { leader && barrier == 0 && position > through ->
       barrier = position; barrier_after = PLACE }
  :: atomic { leader && barrier != 0 && CONFIRMED(barrier) ->
       d_step {
         through = barrier;
#ifdef AFTER_IS_TAKEN_LATE
         after = PLACE;
#else
         after = barrier_after;
#endif
         barrier = 0; barrier_after = 0;
#ifndef ONLY_THE_OUTPUT
         assert((UP_TO(through) & ~kept) == 0);         /* else the word tells of what is not there */
         i = through + 1;
         do
         :: i <= REQUESTS ->
              assert(place[i] == 0 || place[i] > after);    /* else who reads on from it misses it */
              i++
         :: else -> break
         od;
         i = 0
#endif
       }
       if
       :: told_through[me] = through; told_after[me] = after
#ifdef SILENT
       :: true                  /* the beat is lost, or the next word comes before it */
#endif
       fi }

  /* -- a checkpoint: complete when the word has come so far; it keeps that word -- */

  :: d_step { kills < KILLS && cut == 0 && position > saved[me] -> cut = position }
  :: d_step { kills < KILLS && cut != 0 && COMPLETE ->
#ifndef ONLY_THE_OUTPUT
       assert((UP_TO(cut) & ~kept) == 0);               /* else a restart loses what is not there */
#endif
       saved[me] = cut; saved_through[me] = through; saved_after[me] = after; cut = 0 }

  /* -- kill -9: it starts from its folder, or (SNAPSHOT) from what another has saved -- */

  :: atomic { quiet == 0 && kills < KILLS && empty(link[me * LINKS + NEXT_LINK]) ->
       kills++; incarnation[me]++; used[me] = NEXT_LINK;
       if
       :: true
#ifdef SNAPSHOT
       :: saved[me] = saved[(me + 1) % REPLICAS];
          saved_through[me] = saved_through[(me + 1) % REPLICAS];
          saved_after[me] = saved_after[(me + 1) % REPLICAS]
#endif
       fi;
       d_step {
         step_down();
         waiting = 0; ahead = 0; known = 0; cut = 0
       }
       goto starts }
#ifdef SETTLE
  :: quiet == 4 -> break
#endif
  od
#ifdef SETTLE
  ;
#ifdef SILENT
  assert(!leader || author != MY_VOTE || (waiting == 0 && position == REQUESTS))
#else
  assert(waiting == 0 && position == REQUESTS)
#endif
#endif
}

init {
  atomic {
    byte n, m;
    for (n : 0 .. REPLICAS - 1) {
      run Replica(n);
      for (m : 0 .. LINKS - 1) { run Link(n, m) }
    }
    n = 0; m = 0
  }
#ifdef SETTLE
  quiet = 1;                    /* at any moment */
  timeout -> quiet = 2;         /* all has come to rest */
  timeout -> assert(kept == UP_TO(REQUESTS)); quiet = 4
#endif
}
